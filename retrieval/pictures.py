"""The pictures of a query and of its answer: query pictures from anywhere, and the neighbours found, as records.

A picture that is in the workspace (by path or bytes) keeps its known labels and is never its own neighbour; a foreign
one works like it, its labels read off its style.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index_store.images import prepare, read_image
from index_store.workspace import Workspace

if TYPE_CHECKING:
    from index_store.attributes import AttributeSchema
    from index_store.queries import Where

Pixels = NDArray[np.uint8]
Source = Path | str | Image.Image | Pixels
"""A picture to ask with: a file, a PIL image, or uint8 [H, W, 3]."""
SHOWN = 20  # images of an answer that are printed


@dataclass(frozen=True)
class Picture:
    """A picture of any size: where it is from, its id and its labels int8 [all attributes] if the workspace has it."""

    source: Source
    image_id: int | None = None
    all_labels: NDArray[np.int8] | None = None
    white: float | None = None

    @staticmethod
    def of(workspace: Workspace, source: Source | Picture) -> Picture:
        """The picture, recognised if it is a file that the workspace has, by its path or its bytes."""
        if isinstance(source, Picture) or not isinstance(source, str | Path):
            return source if isinstance(source, Picture) else Picture(source)
        image = workspace.image_for_path(source)
        return Picture(source) if image is None else Picture.known(workspace, image, source)

    @staticmethod
    def known(workspace: Workspace, image_id: int, source: Source | None = None) -> Picture:
        """An image of the workspace, read from `source` (None: where it is). RgunitError for an unknown id."""
        table = workspace.images()
        row = int(table.places(np.array([image_id]))[0])
        place = Path(table.paths[row]) if source is None else source
        return Picture(place, image_id, table.labels[row], table.white(row))

    def at(self, size: int) -> Pixels:
        """uint8 [size, size, 3], centre-cropped and resized. Raises ImageRefused with the reason."""
        if isinstance(self.source, str | Path):
            return read_image(self.source, size=size, white=self.white)
        return prepare(self.source, size=size, name="the query picture")

    def labels(self, workspace: Workspace, schema: AttributeSchema) -> NDArray[np.int8] | None:
        """Its labels int8 [A] over a part of the workspace's attributes; None for a foreign picture."""
        return None if self.all_labels is None else self.all_labels[workspace.schema.indices(schema.names)]


@dataclass(frozen=True)
class Neighbour:
    """An image that was found: rank from 1, distance, labels {name: 1, 0 or None}, origin real|unlabelled|generated.

    `white`: what is white in its deep grey, as the workspace knows it."""

    rank: int
    image_id: int
    path: Path
    distance: float
    attributes: dict[str, int | None]
    origin: str
    white: float | None = None

    def array(self, size: int | None = None) -> Pixels:
        """Its pixels uint8 [H, W, 3]; with `size` centre-cropped and resized to size × size."""
        return read_image(self.path, size=size, white=self.white)

    def image(self) -> Image.Image:
        """It as a PIL image."""
        return Image.fromarray(self.array())

    def json(self) -> dict[str, Any]:
        """As the command's JSON has it."""
        return {
            "rank": self.rank,
            "image_id": self.image_id,
            "path": str(self.path),
            "distance": self.distance,
            "attributes": self.attributes,
            "origin": self.origin,
        }


@dataclass(frozen=True, repr=False)
class Results(Sequence[Neighbour]):
    """The neighbours, best first, with what was asked for (`target`, the style's labels) and what was done.

    `labels`: how known labels counted, prefer|require|ignore; `text`: the words that were asked for."""

    neighbours: tuple[Neighbour, ...]
    target: dict[str, int | None]
    plan: str
    milliseconds: float
    labels: str = "prefer"
    text: str | None = None

    @overload
    def __getitem__(self, place: int) -> Neighbour: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Neighbour, ...]: ...
    def __getitem__(self, place: int | slice) -> Neighbour | tuple[Neighbour, ...]:
        return self.neighbours[place]

    def __len__(self) -> int:
        return len(self.neighbours)

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self.neighbours)

    def __repr__(self) -> str:
        from retrieval.sheets import wanted

        return f"<{len(self)} images found, {wanted(self)}>"

    def __str__(self) -> str:
        """A line an image: rank, id, distance, known labels as wanted, path. One screen, however many there are."""
        from retrieval.sheets import agreement, wanted

        lines = [wanted(self)]
        for one in self.neighbours[:SHOWN]:
            agree, known = agreement(one.attributes, self.target)
            fits = f"{agree}/{known}" if known else ""
            lines.append(f"{one.rank:>3}  {one.image_id:>8}  {one.distance:>8.3f}  {fits:>5}  {one.path}")
        if len(self) > SHOWN:
            lines.append(f"… and {len(self) - SHOWN} more")
        return "\n".join([*lines, f"{self.milliseconds:.0f} ms, {self.plan}"])

    def json(self) -> dict[str, Any]:
        """As the command's JSON has it."""
        return {
            "neighbours": [one.json() for one in self.neighbours],
            "plan": self.plan,
            "milliseconds": self.milliseconds,
            "target": self.target,
            "labels": self.labels,
            "text": self.text,
        }


def neighbours_of(
    workspace: Workspace, ids: NDArray[np.int64], distances: NDArray[np.float32]
) -> tuple[Neighbour, ...]:
    """Records of ids int64 [k] with distances [k], in that order; −1 (no more match) is left out."""
    there = ids >= 0
    if not there.any():
        return ()
    table, schema = workspace.images(), workspace.schema
    rows = table.places(ids[there])
    return tuple(
        Neighbour(
            rank,
            int(table.ids[row]),
            Path(table.paths[row]),
            float(distance),
            schema.describe(table.labels[row]),
            str(table.origin[row]),
            table.white(int(row)),
        )
        for rank, (row, distance) in enumerate(zip(rows, distances[there], strict=True), start=1)
    )


def with_origin(workspace: Workspace, where: str | None, origin: str | None = None) -> str:
    """The filter with an origin: the one given or named in it, else real and unlabelled images."""
    text = f"{(where or '').strip()} {f'origin={origin}' if origin else ''}".strip()
    if workspace.schema.filter(text).origin is None:
        text = f"{text} origin=real|unlabelled".strip()
    return text


def with_origins(workspace: Workspace, where: Where) -> Where:
    """`with_origin` of one filter, or of one for each query."""
    if where is None or isinstance(where, str):
        return with_origin(workspace, where)
    made = {text: with_origin(workspace, text) for text in set(where)}
    return [made[text] for text in where]

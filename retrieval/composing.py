"""Composed queries: the content of some pictures with the style of an edit or of another picture, without torch.

A query is a pair (content, style) like any image's, so the embedding network reads it as it reads images. Who reads the
pictures is a `Reader`: torch networks (`queries.py`) or a run's graphs (`reading.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from index_store.errors import RgunitError, UsageError
from index_store.names import quoted

if TYPE_CHECKING:
    from index_store.attributes import AttributeSchema, Edit
    from index_store.workspace import Workspace

Floats = NDArray[np.float32]
Labels = NDArray[np.int8]
Pixels = NDArray[np.uint8]


class HasSchema(Protocol):
    """What knows the attributes of a style."""

    @property
    def schema(self) -> AttributeSchema: ...


class Reader(HasSchema, Protocol):
    """Pictures uint8 [n, size, size, 3] as content and style. `style_dim` is 0 where there is no style."""

    @property
    def size(self) -> int: ...
    @property
    def style_dim(self) -> int: ...

    def content(self, pixels: Pixels) -> Floats:
        """Content [n, C, h, h]."""

    def style(self, pixels: Pixels) -> Floats:
        """Styles μ [n, S]."""

    def read(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """Content and styles, in one go."""

    def style_labels(self, style: Floats) -> Labels:
        """Labels int8 [n, A] read off styles."""

    def component(self, labels: Labels) -> Floats:
        """The style [1, S] of labels int8 [A]: the middle of what is drawn for them, or a draw."""

    def telling(self, bits: Sequence[int]) -> NDArray[np.bool_]:
        """bool [S]: the numbers of a style that tell these attributes: those in which their components differ."""


@dataclass(frozen=True)
class Composed:
    """contents [n, C, h, h] of the pictures, style [1, S] of what is sought, its labels int8 [A] of used attributes."""

    contents: Floats
    style: Floats
    target: Labels

    @property
    def content(self) -> Floats:
        """The content that is sought, [1, C, h, h]: the mean of the pictures'."""
        return self.contents.mean(axis=0, keepdims=True) if len(self.contents) > 1 else self.contents


def compose_read(
    reader: Reader,
    images: Pixels,
    *,
    edit: Edit | None = None,
    style_of: Pixels | None = None,
    known_labels: Labels | None = None,
    style_of_labels: Labels | None = None,
) -> Composed:
    """The content of `images` uint8 [size, size, 3], or [n, size, size, 3] of several, with the style asked for.

    `edit` is over the reader's schema. It starts from the pictures' labels: the known ones of int8 [A] or [n, A]
    `known_labels` (1, 0, −1 unknown), for others the sign of the mean of that attribute's 8 style numbers; of several
    pictures the majority's, and the first one's where they are even. The style is the reader's component of the labels
    so reached. With `style_of` it is that picture's μ, in which the edit's bits (and the rivals that they end) are
    replaced. With neither it is the mean of the pictures' own μ: what is like them.

    Of a reader without a style the content alone is sought, and no label: UsageError for an edit or `style_of`.
    """
    pixels = _several(reader, images)
    if not reader.style_dim:
        if edit is not None or style_of is not None:
            raise no_style("this translation model")
        target = np.full(len(reader.schema.names), -1, np.int8)
        return Composed(reader.content(pixels), np.zeros((1, 0), np.float32), target)
    if style_of is None:
        contents, own = reader.read(pixels)
        target = _majority(_labels(reader, own, known_labels))
        if edit is None:
            return Composed(contents, own.mean(axis=0, keepdims=True), target)
        target = edit.apply(target)
        return Composed(contents, reader.component(target), target)

    contents = reader.content(pixels)
    own = reader.style(_several(reader, style_of))
    target = _labels(reader, own, style_of_labels)[0]
    if edit is None:
        return Composed(contents, own, target)
    target = edit.apply(target)
    replaced = reader.telling((*edit.bits, *edit.cleared))
    return Composed(contents, np.where(replaced, reader.component(target), own), target)


def no_style(model: str) -> UsageError:
    """What to say where a model without a style is asked for one; `model` begins the line and names it."""
    return UsageError(
        f"{model} has no style, so --to and --style-of change nothing: look for the content alone "
        "(`rgunit similar IMAGE`), where --where '+Name' filters by an attribute instead"
    )


def style_edit(workspace: Workspace, model: HasSchema, text: str) -> Edit:
    """An edit over the model's schema. UsageError for an attribute that the workspace has but their style has not."""
    names = workspace.schema.names
    edit = workspace.schema.edit(text)
    strange = [names[column] for column in sorted(edit.bits) if names[column] not in model.schema.names]
    if strange:
        raise UsageError(
            f"{', '.join(map(quoted, strange))} cannot be edited: the style was trained on "
            f"{', '.join(map(quoted, model.schema.names))} "
            "(--where takes any attribute)"
        )
    return model.schema.edit(text)


def descendants(workspace: Workspace, ids: Sequence[int]) -> NDArray[np.int64]:
    """The ids themselves and those of every image made from them, or from what was made from them; ascending."""
    table = workspace.images()
    made = np.flatnonzero(table.parent >= 0)
    family = {int(image) for image in ids}
    while True:
        children = table.ids[made[np.isin(table.parent[made], sorted(family))]]
        grown = family.union(children.tolist())
        if len(grown) == len(family):
            return np.array(sorted(family), np.int64)
        family = grown


def _several(reader: Reader, images: Pixels) -> Pixels:
    several = images if images.ndim == 4 else images[None]
    if several.shape[1:] != (reader.size, reader.size, 3) or images.dtype != np.uint8:
        raise RgunitError(
            f"a query picture must be uint8 [{reader.size}, {reader.size}, 3], not {images.dtype} "
            f"{list(images.shape)}: read it with size={reader.size}"
        )
    return several


def _labels(reader: Reader, style: Floats, known: Labels | None) -> Labels:
    """int8 [n, A]: what is known of n pictures, and what their style tells where it is not."""
    read = reader.style_labels(style)
    if known is None:
        return read
    known = known.reshape(read.shape)
    return np.where(known < 0, read, known).astype(np.int8)


def _majority(labels: NDArray[np.int8]) -> NDArray[np.int8]:
    """int8 [A] of [n, A] without unknown bits; the first row decides a tie."""
    twice = 2 * labels.sum(axis=0, dtype=np.int64)
    even = twice == len(labels)
    decided: NDArray[np.int8] = np.where(even, labels[0], twice > len(labels)).astype(np.int8)
    return decided

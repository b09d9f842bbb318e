"""Queries and translations of single pictures, as the commands `query` and `translate` give them.

A picture that is in the workspace (by path or bytes) keeps its known labels and is never its own neighbour; a foreign
one works like it, its labels read off its style.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from index_store.errors import RgunitError, UsageError
from index_store.images import read_image, write_image
from index_store.workspace import Workspace
from retrieval.queries import compose, find
from translation.neighbours import Neighbours
from translation.stages import neighbour_table, open_retriever, require_index
from translation.translator import Translator, to_pixels, to_tensor


@dataclass(frozen=True)
class Picture:
    """A decoded input: pixels uint8 [size, size, 3]; id and known labels int8 [A] over the used attributes, or None."""

    path: Path
    pixels: NDArray[np.uint8]
    image_id: int | None
    labels: NDArray[np.int8] | None


def read_picture(workspace: Workspace, translator: Translator, path: Path) -> Picture:
    """A picture from disk at the translator's size, recognised if it is in the workspace."""
    pixels = read_image(path, size=translator.size)
    image = workspace.image_for_path(path)
    labels = None
    if image is not None:
        table = workspace.images(ids=[image])
        labels = table.labels[0, workspace.schema.indices(translator.schema.names)]
    return Picture(path, pixels, image, labels)


def query_image(
    workspace: Workspace,
    path: Path,
    *,
    to: str | None = None,
    style_of: Path | None = None,
    k: int = 10,
    where: str | None = None,
    run: str | None = None,
    device: str = "auto",
    grid: Path | None = None,
) -> dict[str, Any]:
    """The nearest images to this content in that style: the JSON of `rgunit query`, with `target` beside it."""
    if k < 1:
        raise UsageError(f"-k must be at least 1, not {k}")
    workspace.schema.filter(where)  # a misspelt filter is told before anything is loaded
    retriever = open_retriever(workspace, run, device)
    translator = retriever.encoders
    assert isinstance(translator, Translator)
    edit = translator.schema.edit(to) if to is not None else None
    picture = read_picture(workspace, translator, path)
    other = read_picture(workspace, translator, style_of) if style_of is not None else None
    started = time.perf_counter()
    query = compose(
        translator,
        picture.pixels,
        edit=edit,
        style_of=other.pixels if other else None,
        known_labels=picture.labels,
        style_of_labels=other.labels if other else None,
    )
    found = find(retriever, query, k=k, where=where, image_id=picture.image_id)
    milliseconds = 1e3 * (time.perf_counter() - started)
    hits = [(int(i), float(d)) for i, d in zip(found.ids[0], found.distances[0], strict=True) if i >= 0]
    table = workspace.images(ids=[i for i, _ in hits])
    row_of = {int(i): row for row, i in enumerate(table.ids)}
    neighbours = [
        {
            "rank": rank,
            "image_id": image,
            "path": table.paths[row_of[image]],
            "distance": distance,
            "attributes": workspace.schema.describe(table.labels[row_of[image]]),
            "origin": str(table.origin[row_of[image]]),
        }
        for rank, (image, distance) in enumerate(hits, start=1)
    ]
    if grid is not None:
        shown = workspace.load([i for i, _ in hits], translator.size)
        write_image(grid, np.concatenate([picture.pixels, *shown], axis=1))
    return {
        "neighbours": neighbours,
        "plan": found.plan,
        "milliseconds": milliseconds,
        "target": translator.schema.describe(query.target),
    }


def translate_images(
    workspace: Workspace,
    paths: Sequence[Path],
    *,
    to: str | None = None,
    style_of: Path | None = None,
    samples: int = 1,
    guidance: float | None = None,
    run: str | None = None,
    out: Path,
    seed: int = 0,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Translate pictures and write PNGs into `out`: rows {source, target, path, neighbours, mask}.

    Files are NAME-SAMPLE.png and NAME-SAMPLE-mask.png. With an edit a style is sampled for each (seed, picture,
    sample); with `style_of` alone it is that picture's μ, so `samples` must be 1. `guidance` in [0, 1]: by default 1
    for a guided translator, 0 for others. All pictures are read before any is written.
    """
    if to is None and style_of is None:
        raise UsageError(
            "a translation needs an edit (--to '+Blond_Hair') or a picture to take the style of (--style-of)"
        )
    if samples < 1:
        raise UsageError(f"--samples must be at least 1, not {samples}")
    if to is None and samples > 1:
        raise UsageError("--style-of alone gives one style, so --samples must be 1: add --to to sample")
    if guidance is not None and not 0 <= guidance <= 1:
        raise UsageError(f"--guidance must lie in 0 … 1, not {guidance:g}")
    translator = Translator.load(workspace, run, device)
    edit = translator.schema.edit(to) if to is not None else None
    strength = (1.0 if translator.neighbours else 0.0) if guidance is None else guidance
    if strength and not translator.neighbours:
        assert translator.run is not None
        raise RgunitError(
            f"run {translator.run.id} was trained without neighbours, so it cannot be guided: "
            "name a guided run with --run, or leave --guidance out"
        )
    guides = _guides(workspace, translator, device) if strength else None
    pictures = [read_picture(workspace, translator, path) for path in paths]
    other = read_picture(workspace, translator, style_of) if style_of is not None else None
    names = _names([picture.path for picture in pictures])
    rows: list[dict[str, Any]] = []
    out.mkdir(parents=True, exist_ok=True)
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        for sample in range(samples):
            draw = None
            if edit is not None:
                draw = torch.Generator().manual_seed(
                    int(np.random.SeedSequence([seed, number, sample]).generate_state(1)[0])
                )
            query = compose(
                translator,
                picture.pixels,
                edit=edit,
                style_of=other.pixels if other else None,
                known_labels=picture.labels,
                style_of_labels=other.labels if other else None,
                generator=draw,
            )
            images = to_tensor(picture.pixels[None], translator.device)
            own = np.array([-1 if picture.image_id is None else picture.image_id], np.int64)
            ids = np.empty((1, 0), np.int64)
            content = None
            if guides is not None:
                ids = guides.find(query.content, query.style, own, np.random.default_rng([seed, number, sample]))
                content = guides.content(ids)
            made = translator.translate(
                images, query.content, query.style, neighbour_content=content, guidance=strength
            )
            path, mask_path = out / f"{name}-{sample}.png", out / f"{name}-{sample}-mask.png"
            write_image(path, to_pixels(made.image)[0])
            write_image(mask_path, to_pixels(made.mask.mul(2).sub(1).expand(-1, 3, -1, -1))[0])
            known = neighbour_table(workspace, ids)
            rows.append(
                {
                    "source": str(picture.path.absolute()),
                    "target": translator.schema.describe(query.target),
                    "path": str(path.absolute()),
                    "neighbours": [known[int(i)] for i in ids[0]],
                    "mask": str(mask_path.absolute()),
                }
            )
    return rows


def _guides(workspace: Workspace, translator: Translator, device: str) -> Neighbours:
    """What a guided run looks up: by the retrieval it was trained with, or at random like in its training."""
    assert translator.run is not None
    g = translator.config.guided
    retriever = None
    if translator.run.config["neighbours"] == "retrieved":
        retriever = open_retriever(workspace, str(translator.run.config["retrieval_run"]), device)
        require_index(workspace, retriever)
    return Neighbours(workspace, translator, retriever, k=g.neighbours, cache_mib=g.feature_cache)


def _names(paths: Sequence[Path]) -> list[str]:
    """File names without suffix, numbered where two pictures share one."""
    names: list[str] = []
    for path in paths:
        name, n = path.stem, 1
        while name in names:
            n += 1
            name = f"{path.stem}-{n}"
        names.append(name)
    return names

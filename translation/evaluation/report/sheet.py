"""Pairs as one picture: a source, what guided it, and what each arm made of it, for a look without a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index_store.images import write_image
from index_store.workspace import Workspace
from retrieval.sheets import TILE, Tile, contact_sheet
from translation.evaluation.arms import Arms
from translation.evaluation.evaluate import Evaluation
from translation.evaluation.report.data import TranslationRow
from translation.evaluation.report.examples import SHOWN_ARMS, translation_rows
from translation.evaluation.report.report import mask_pixels
from translation.evaluation.truth import truth_of


def pair_sheet(rows: Sequence[TranslationRow]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: a row for each pair, under its edit; green where an arm changed all that was asked, else red."""
    shown = []
    for row in rows:
        tiles = [_tile(row.source, "source")]
        tiles += [_tile(pixels, f"neighbour {place}") for place, pixels in enumerate(row.neighbours, 1)]
        for output in row.outputs:
            right = list(output.right.values())
            good = all(right) if right else None
            tiles.append(_tile(output.image, f"{output.arm}   {sum(right)}/{len(right)}", good))
        tiles += [] if row.mask is None else [_tile(mask_pixels(row.mask), "mask")]
        tiles += [] if row.truth is None else [_tile(row.truth, "truth")]
        edit = row.edit.replace("−", "-")  # the font has no minus sign
        shown.append((f"{row.case}: {edit}   ({Path(row.path).name})", tiles))
    return contact_sheet(shown)


def draw_pairs(
    workspace: Workspace,
    evaluation: Evaluation,
    arms: Arms,
    path: Path,
    *,
    per_case: int = 3,
    seed: int = 0,
    shown: Sequence[str] = (*SHOWN_ARMS, "swapped"),
) -> None:
    """The best, some random and the worst pairs of an evaluation (`translation_rows`) in a PNG file."""
    first = arms.arms["stage1"].translator
    truth = truth_of(workspace, first.schema.names, first.size)
    rows = translation_rows(
        workspace, evaluation, arms.arms, truth=truth, size=first.size, per_case=per_case, seed=seed, shown=shown
    )
    write_image(path, pair_sheet(rows))


def _tile(pixels: NDArray[np.uint8], caption: str, good: bool | None = None) -> Tile:
    larger = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC)
    return Tile(np.asarray(larger), caption, good)

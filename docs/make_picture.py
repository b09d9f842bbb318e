"""The README's picture, from a demo: `.venv/bin/python docs/make_picture.py workspace/demo docs/images/demo.png`.

Rows are the first pairs of the evaluation (drawn by seed 0, not chosen): source, three retrieved neighbours, mask,
unguided, guided, truth.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from index_store.workspace import Workspace
from retrieval.tensors import to_pixels
from translation.evaluation.arms import open_arms
from translation.evaluation.protocol import make_pairs
from translation.evaluation.truth import truth_of

ROWS, SCALE, GAP, HEAD = 5, 3, 6, 26
COLUMNS = ("source", "retrieved for the new style", "", "", "mask", "unguided", "guided", "truth")


def main(workspace_path: Path, out: Path) -> None:
    """Write the picture."""
    with Workspace.open(workspace_path) as workspace:
        arms = open_arms(workspace)
        first = arms.arms["stage1"].translator
        pairs = make_pairs(workspace, first.schema)
        chosen = slice(0, ROWS)
        source, target, seeds = pairs.source[chosen], pairs.target[chosen], pairs.seeds[chosen]
        made, neighbours = arms.arms["guided"].translate(source, target, seeds)
        plain, _ = arms.arms["unguided"].translate(source, target, seeds)
        truth = truth_of(workspace, first.schema.names, first.size)
        assert truth is not None
        columns = [
            workspace.load(source, first.size),
            *(workspace.load(neighbours[:, i], first.size) for i in range(neighbours.shape[1])),
            to_pixels(made.mask.mul(2).sub(1).expand(-1, 3, -1, -1)),
            to_pixels(plain.image),
            to_pixels(made.image),
            truth(source, target),
        ]
        words = [
            " ".join(
                f"{'+' if new else '-'}{name}"
                for name, old, new in zip(pairs.attributes, pairs.before[i], target[i], strict=True)
                if old != new
            )
            for i in range(ROWS)
        ]
    side = first.size * SCALE
    page = Image.new("RGB", (len(columns) * (side + GAP), HEAD + ROWS * (side + HEAD)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for x, (name, images) in enumerate(zip(COLUMNS, columns, strict=True)):
        draw.text((x * (side + GAP) + 2, 6), name, "black", font)
        for y, pixels in enumerate(np.asarray(images)):
            tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            page.paste(tile, (x * (side + GAP), HEAD + y * (side + HEAD)))
    for y, text in enumerate(words):
        draw.text((2, HEAD + y * (side + HEAD) + side + 4), text.replace("_", " "), "black", font)
    out.parent.mkdir(parents=True, exist_ok=True)
    page.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

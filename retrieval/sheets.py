"""Answers as files: a contact sheet of pictures, and a CSV of paths. Both are written whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from index_store.images import write_image
from index_store.whole import write_text
from retrieval.pictures import Picture, Results

Pixels = NDArray[np.uint8]

TILE, GAP, LINE, COLUMNS = 112, 8, 17, 8
INK, PALE, GOOD, BAD = (32, 32, 32), (112, 112, 112), (34, 139, 69), (203, 60, 50)


@dataclass(frozen=True)
class Tile:
    """A picture uint8 [TILE, TILE, 3] with a line under it; `good` frames it green or red."""

    pixels: Pixels
    caption: str = ""
    good: bool | None = None


def contact_sheet(rows: Sequence[tuple[str, Sequence[Tile]]]) -> Pixels:
    """uint8 [H, W, 3]: rows of tiles on white, each row under its heading (none where that is empty)."""
    width = GAP + max((len(tiles) for _, tiles in rows), default=1) * (TILE + GAP)
    width = max(width, GAP + 4 * (TILE + GAP))  # room for a heading
    heights = [(LINE + 4 if heading else 0) + TILE + LINE + GAP for heading, _ in rows]
    sheet = Image.new("RGB", (width, GAP + sum(heights)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    top = GAP
    for (heading, tiles), height in zip(rows, heights, strict=True):
        if heading:
            pen.text((GAP, top), _cut(pen, heading, width - 2 * GAP, font), INK, font)
        y = top + height - TILE - LINE - GAP
        for place, tile in enumerate(tiles):
            x = GAP + place * (TILE + GAP)
            sheet.paste(Image.fromarray(np.ascontiguousarray(tile.pixels)), (x, y))
            if tile.good is not None:
                pen.rectangle((x - 2, y - 2, x + TILE + 1, y + TILE + 1), outline=GOOD if tile.good else BAD, width=2)
            pen.text((x, y + TILE + 3), _cut(pen, tile.caption, TILE, font), PALE, font)
        top += height
    return np.asarray(sheet)


def write_grid(
    path: Path, images: Sequence[Picture], style_of: Picture | None, results: Results, *, heading: str = ""
) -> None:
    """Draw a query and its neighbours: a green frame where every known label is as wanted, a red one where not."""
    asked = [Tile(picture.at(TILE), "query" if style_of is None else "content") for picture in images]
    if style_of is not None:
        asked.append(Tile(style_of.at(TILE), "style"))
    rows: list[tuple[str, Sequence[Tile]]] = [(heading, asked)] if asked else []
    for start in range(0, len(results), COLUMNS):
        part = results[start : start + COLUMNS]
        tiles = []
        for one in part:
            agree, known = agreement(one.attributes, results.target)
            caption = (
                f"{one.rank}   {one.distance:.3f}   {agree}/{known}" if known else f"{one.rank}   {one.distance:.3f}"
            )
            tiles.append(Tile(one.array(TILE), caption, agree == known if known else None))
        rows.append(("" if start else "found" if rows else heading, tiles))
    write_image(path, contact_sheet(rows))


def write_csv(path: Path, answers: Sequence[Results], queries: Sequence[Path] | None = None) -> None:
    """rank, path, image_id, distance, origin and a column for each attribute (1, 0, empty for unknown).

    Of several answers with the picture that each is to, in a first column `query`.
    """
    names = next((list(found[0].attributes) for found in answers if len(found)), [])
    text = io.StringIO()
    writer = csv.writer(text)
    first = [] if queries is None else ["query"]
    writer.writerow([*first, "rank", "path", "image_id", "distance", "origin", *names])
    for number, found in enumerate(answers):
        asked = [] if queries is None else [queries[number].absolute()]
        for one in found:
            bits = ["" if one.attributes[name] is None else one.attributes[name] for name in names]
            writer.writerow([*asked, one.rank, one.path, one.image_id, f"{one.distance:.6g}", one.origin, *bits])
    write_text(path, text.getvalue(), newline="")


def wanted(found: Results) -> str:
    """What was sought: labels, and words."""
    told = " ".join(f"{'+' if bit else '-'}{name}" for name, bit in found.target.items() if bit is not None)
    words = None if found.text is None else f"“{found.text}”"
    return f"wanted: {', '.join(part for part in (told, words) if part) or 'the same content'}"


def agreement(attributes: dict[str, int | None], target: dict[str, int | None]) -> tuple[int, int]:
    """How many of the known labels are as wanted, and how many are known."""
    known = [
        attributes[name] == bit for name, bit in target.items() if bit is not None and attributes[name] is not None
    ]
    return sum(known), len(known)


def _cut(pen: ImageDraw.ImageDraw, text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, shortened with … to fit so many pixels."""
    while text and pen.textlength(text, font) > width:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text

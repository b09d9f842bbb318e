"""A sheet of translations: each source with its samples and the neighbours that guided them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from index_store.errors import ImageRefused, RgunitError
from index_store.images import made_of, read_image, write_image
from retrieval.sheets import TILE, Tile, contact_sheet

MARK = "sheet of translations"
MOST = 60  # sources on a sheet


def check_sheet(path: Path) -> None:
    """RgunitError where the sheet cannot be written: its folder is not there, or another file is."""
    if not path.parent.is_dir():
        raise RgunitError(f"--sheet {path}: there is no folder {path.parent}: make it first")
    if path.is_dir() or (path.exists() and made_of(path) != MARK):
        raise RgunitError(f"--sheet {path} is there, and no sheet that was made here: name another file")


def write_sheet(path: Path, rows: Sequence[dict[str, Any]], target: str) -> int:
    """Draw rows of `translate_images` as PNG, a line a source, at most 60 of them; return how many it drew."""
    sources: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sources.setdefault(row["source"], []).append(row)
    shown = list(sources.items())[:MOST]
    lines = []
    for source, samples in shown:
        near = {one["path"]: one for row in samples for one in row["neighbours"]}
        tiles = [*_tiles([source], "source"), *_tiles((row["path"] for row in samples), "translation")]
        for one in near.values():
            distance = "" if one.get("distance") is None else f" {one['distance']:.3f}"
            tiles += _tiles([one["path"]], f"neighbour{distance}")
        lines.append((f"{Path(source).name} to {target}", tiles))
    write_image(path, contact_sheet(lines), made_of=MARK)
    return len(shown)


def _tiles(paths: Iterable[str], caption: str) -> list[Tile]:
    """A tile a picture; one that is gone is left out."""
    tiles = []
    for path in paths:
        with suppress(ImageRefused):
            tiles.append(Tile(read_image(path, size=TILE), caption))
    return tiles

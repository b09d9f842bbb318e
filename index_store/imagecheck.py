"""Whether the pictures that a workspace knows are still what was registered.

The one idea: the catalog keeps each picture's sha-256. Pictures that a run made belong to the workspace and are always
compared; the user's own lie outside: they are looked for, and compared where that is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from index_store import places
from index_store.catalog import Catalog
from index_store.decoding import LARGEST_BYTES

NAMED = 20  # files of one kind that are named one by one
OUTSIDE = "leads out of the workspace and is not read"
MADE = "images/generated/"

Row = tuple[int, str, str | None]  # id, path as the catalog keeps it, sha-256


def check_images(
    catalog: Catalog, *, every: bool = False, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Return a line on each picture that is missing or has changed, with what to do about it.

    Generated pictures are read and compared by their sha-256, others only with `every`; all are looked for.
    `progress(done, total)` is called after each.
    """
    with catalog.reading() as connection:
        found = connection.exec_driver_sql("SELECT id, path, sha256 FROM images WHERE path IS NOT NULL ORDER BY id")
        rows: list[Row] = [(int(number), str(path), sha) for number, path, sha in found]
    with ThreadPoolExecutor(max_workers=4) as pool:
        states = []
        for state in pool.map(lambda row: _state(catalog.folder, row, every), rows, chunksize=64):
            states.append(state)
            if progress:
                progress(len(states), len(rows))
    problems = []
    for wrong in (OUTSIDE, "is missing", "cannot be read", "is not the picture that was registered"):
        for made in (True, False):
            concerned = [
                row for row, state in zip(rows, states, strict=True) if state == wrong and _is_made(row) == made
            ]
            problems += _lines(concerned, wrong, made)
    return problems


def _is_made(row: Row) -> bool:
    """Whether a run made the picture."""
    return row[1].startswith(MADE)


def _state(folder: Path, row: Row, every: bool) -> str:
    """Return what is wrong with a picture, "" if nothing is known to be."""
    _, path, sha = row
    try:
        file = places.picture(folder, path)
        if sha and (every or _is_made(row)):
            same = hashlib.sha256(places.read_bytes(file, LARGEST_BYTES)).hexdigest() == sha
            return "" if same else "is not the picture that was registered"
        return "" if Path(file).is_file() else "is missing"
    except places.Unsafe:
        return OUTSIDE
    except FileNotFoundError:
        return "is missing"
    except OSError:
        return "cannot be read"


def _lines(rows: Sequence[Row], wrong: str, made: bool) -> list[str]:
    """Name the files of one kind."""
    if wrong == OUTSIDE:
        remedy = "`rgunit index remove --id {}`"
    elif made:
        remedy = "`rgunit index remove --id {}`, then `rgunit index build` makes others"
    elif wrong == "is missing":
        remedy = "put it back, add its new place by `rgunit add`, or `rgunit index remove --id {}`"
    else:
        remedy = "put the old one back, or `rgunit index remove --id {}` and `rgunit add` the new one"
    lines = [f"{path}: {wrong}: {remedy.format(number)}" for number, path, _ in rows[:NAMED]]
    if len(rows) > NAMED:
        lines.append(f"{rows[NAMED][1]} and {len(rows) - NAMED - 1} more: {wrong}")
    return lines

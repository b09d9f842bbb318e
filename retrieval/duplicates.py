"""Near-duplicates of a collection in groups, with a picture of them.

The one idea: an image's perceptual hash never changes, so it is kept in the cache; asking again only compares.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.duplicates import DISTANCE, alike, near_pairs, perceptual_hash, thumbs
from index_store.errors import ImageRefused
from index_store.images import read_image, write_image
from index_store.imagetable import ImageTable
from index_store.whole import whole
from index_store.workspace import Workspace
from retrieval.pictures import with_origin
from retrieval.sheets import COLUMNS, TILE, Tile, contact_sheet

CACHE = "cache/perceptual-hashes.npz"
SIZE, BATCH = 64, 256
DRAWN = 40  # groups in a picture

Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Duplicate:
    """An image of a group; `bits` to the image of the group that is nearest to it."""

    image_id: int
    path: Path
    origin: str
    bits: int
    white: float | None = None

    def json(self) -> dict[str, Any]:
        return {"image_id": self.image_id, "path": str(self.path), "origin": self.origin, "bits": self.bits}


@dataclass(frozen=True)
class Duplicates:
    """Groups of near-duplicates, the nearest first; each image of a group is within the distance of another.

    `images` is how many were compared; `unreadable` says why others were not.
    """

    groups: list[list[Duplicate]]
    images: int
    unreadable: list[str]


def find_duplicates(
    workspace: Workspace,
    *,
    distance: int = DISTANCE,
    where: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Duplicates:
    """Groups of images whose perceptual hashes (64 bits) differ in at most `distance` bits and whose colours agree
    (`index_store.duplicates.alike`), directly or by a chain.

    Without an `origin=` in `where`, real and unlabelled images only.
    """
    table = workspace.images(with_origin(workspace, where))
    hashes, readable, unreadable = _hashes(workspace, table, progress)
    table = table.select(readable)
    pairs = near_pairs(hashes, distance)
    pairs = pairs[_alike(table, pairs)]
    root = np.arange(len(table))
    while True:  # every row takes the least root of those that it is near to, until nothing changes
        before = root.copy()
        least = np.minimum(root[pairs[:, 0]], root[pairs[:, 1]])
        np.minimum.at(root, pairs[:, 0], least)
        np.minimum.at(root, pairs[:, 1], least)
        root = root[root]
        if (root == before).all():
            break
    bits = np.full(len(table), 65)
    apart = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    for side in (0, 1):
        np.minimum.at(bits, pairs[:, side], apart)
    members: dict[int, list[Duplicate]] = {}
    for row in np.unique(pairs):
        one = Duplicate(
            int(table.ids[row]), Path(table.paths[row]), str(table.origin[row]), int(bits[row]), table.white(int(row))
        )
        members.setdefault(int(root[row]), []).append(one)
    groups = sorted(members.values(), key=lambda group: (min(one.bits for one in group), group[0].image_id))
    return Duplicates(groups, len(table), unreadable)


def _alike(table: ImageTable, pairs: Ids) -> NDArray[np.bool_]:
    """Which pairs of rows [m, 2] have the same colours too; only their pictures are read."""
    rows, place = np.unique(pairs, return_inverse=True)
    place = place.reshape(-1, 2)
    small = np.empty((len(rows), 192), np.float32)
    with ThreadPoolExecutor(4) as pool:
        for at, one in enumerate(pool.map(lambda row: thumbs(table.read(row, SIZE)[None])[0], rows)):
            small[at] = one
    return alike(small[place[:, 0]], small[place[:, 1]])


def draw_duplicates(path: Path, found: Duplicates) -> None:
    """Write a picture of the first groups, side by side where they are small."""
    rows: list[tuple[str, list[Tile]]] = [("", [])]
    for number, group in enumerate(found.groups[:DRAWN], start=1):
        tiles = [
            Tile(read_image(one.path, size=TILE, white=one.white), f"{number}:  {one.image_id}   {one.bits} bits")
            for one in group[:COLUMNS]
        ]
        if rows[-1][1] and len(rows[-1][1]) + len(tiles) > COLUMNS:
            rows.append(("", []))
        rows[-1][1].extend(tiles)
    left = len(found.groups) - DRAWN
    told = f"group: image, bits to the nearest of its group{f' ({left} more groups)' if left > 0 else ''}"
    write_image(path, contact_sheet([(told, rows[0][1]), *rows[1:]]))


def _hashes(
    workspace: Workspace, table: ImageTable, progress: Callable[[int, int], None] | None
) -> tuple[Hashes, NDArray[np.bool_], list[str]]:
    """Hashes [m] of the images that can be read, bool [n]: which those are, and why the others cannot be."""
    kept, ids = _read_cache(workspace.path / CACHE), table.ids
    missing = [row for row, image in enumerate(ids.tolist()) if image not in kept]
    reasons: list[str] = []

    def make(row: int) -> tuple[int, int] | str:
        try:
            return int(ids[row]), int(perceptual_hash(table.read(row, SIZE)[None])[0])
        except ImageRefused as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(missing), BATCH):
            for made in pool.map(make, missing[start : start + BATCH]):
                if isinstance(made, str):
                    reasons.append(made)
                else:
                    kept[made[0]] = made[1]
            if progress is not None:
                progress(min(start + BATCH, len(missing)), len(missing))
    if missing:
        _write_cache(workspace.path / CACHE, kept)
    readable = np.array([image in kept for image in ids.tolist()], np.bool_)
    return np.array([kept[image] for image in ids[readable].tolist()], np.uint64), readable, reasons


def _read_cache(path: Path) -> dict[int, int]:
    """Hashes by id; nothing where the file is missing or damaged: it can be made again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(zip(file["ids"].tolist(), file["hashes"].tolist(), strict=True))
    except Exception:  # numpy and zipfile have an exception for each kind of damage
        return {}


def _write_cache(path: Path, hashes: dict[int, int]) -> None:
    with whole(path) as part, part.open("wb") as file:
        np.savez(file, ids=np.array(list(hashes), np.int64), hashes=np.array(list(hashes.values()), np.uint64))

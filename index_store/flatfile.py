"""A FAISS file of plain vectors with ids (`IndexIDMap2` of `IndexFlatL2`), written in blocks and read where it lies.

The one idea: of all that FAISS can store this is the simplest, so no more than its bytes need be known: memory does not
grow with the vectors, and no file makes FAISS do anything. Layout: FAISS 1.13, `impl/index_write.cpp`, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from index_store import places
from index_store.errors import RgunitError

_HEADER = struct.Struct("<4siqqq?i")  # kind, dimension, rows, two unused numbers, trained, metric
_COUNT = struct.Struct("<Q")
_UNUSED = 1 << 20
_L2 = 1
_MAPS = (b"IxMp", b"IxM2")
_FLAT = (b"IxF2", b"IxFl")

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


def write(path: Path, ids: Ids, dim: int, blocks: Iterable[Vectors]) -> None:
    """Write ids int64 [n] and the vectors float32 [n, dim], which come in blocks, as `faiss.read_index` reads them."""
    with path.open("wb") as file:
        for kind in (b"IxM2", b"IxF2"):
            file.write(_HEADER.pack(kind, dim, len(ids), _UNUSED, _UNUSED, True, _L2))
        file.write(_COUNT.pack(len(ids) * dim))
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f4").data)
        file.write(_COUNT.pack(len(ids)))
        file.write(np.ascontiguousarray(ids, "<i8").data)


def read(path: Path) -> tuple[Ids | None, Vectors]:
    """Return ids int64 [n] (None where the file has none) and vectors float32 [n, d], both memory-mapped.

    RgunitError for every other kind of index, with the way to make one of this kind.
    """
    try:
        with places.opened(path) as file:
            data = np.memmap(file, np.uint8, "r")
        kind, dim, rows, at = _header(data, 0)
        mapped = kind in _MAPS
        if mapped:
            kind, dim, rows, at = _header(data, at)
        count, at = _number(data, at)
        end = at + 4 * count
        if kind not in _FLAT or dim < 1 or count != rows * dim or end > len(data):
            raise ValueError("it holds no plain vectors")
        vectors = data[at:end].view("<f4").reshape(rows, dim)
        if not mapped:
            return None, vectors
        listed, at = _number(data, end)
        if listed != rows or at + 8 * rows > len(data):
            raise ValueError("its ids are not whole")
        return data[at : at + 8 * rows].view("<i8"), vectors
    except (ValueError, struct.error) as error:
        raise RgunitError(
            f"{path}: no FAISS index of plain vectors by L2 distance ({error}): copy its vectors into a "
            "faiss.IndexFlatL2, or save them by numpy.save, and import that"
        ) from error


def _header(data: npt.NDArray[np.uint8], at: int) -> tuple[bytes, int, int, int]:
    """Kind, dimension and rows of the index that begins at a byte, and where its content does."""
    kind, dim, rows, _, _, _, metric = _HEADER.unpack(data[at : at + _HEADER.size].tobytes())
    if metric != _L2:
        raise ValueError("another metric")
    return kind, dim, rows, at + _HEADER.size


def _number(data: npt.NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The number that lies at a byte, and where the next thing begins."""
    return int(_COUNT.unpack(data[at : at + _COUNT.size].tobytes())[0]), at + _COUNT.size

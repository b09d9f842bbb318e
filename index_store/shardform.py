"""What a shard's HDF5 file may hold: the columns and the header that this package writes, and nothing else.

The one idea: HDF5 can lead to other files, run filters and tell any shape. So a file is looked at before anything of
it is read: plain datasets of known names and kinds, contiguous and no larger than the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from index_store.places import KINDS, told

_INT, _BYTE, _FLOAT = np.dtype(np.int64), np.dtype(np.uint8), np.dtype(np.float32)
COLUMNS: Mapping[str, tuple[np.dtype[Any], int]] = {
    **dict.fromkeys(("ids", "width", "height", "parent"), (_INT, 1)),
    **dict.fromkeys(("known", "value"), (_BYTE, 2)),
    "vectors": (_FLOAT, 2),
    **{f"text.{name}": (_BYTE, 1) for name in ("key", "split", "origin", "path", "sha256", "run", "fields")},
    "index": (_BYTE, 1),
}
"""Every column: its kind of number and how many axes it has."""
_PLAIN = (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
_MOST = 2**62


class Malformed(ValueError):
    """A file that holds something else than a shard does."""


def check(file: h5py.File, size: int) -> tuple[dict[str, Any], dict[str, h5py.Dataset]]:
    """Return the header and the columns of an open file of so many bytes; Malformed says what is wrong."""
    columns: dict[str, h5py.Dataset] = {}
    for name in file:
        if name not in COLUMNS:
            raise Malformed(f"it holds {told(name)}, which is no column")
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise Malformed(f"its column {name} is a link")
        columns[name] = _plain(name, file[name], size)
    header = _header(file)
    rows = {name: len(column) for name, column in columns.items() if not name.startswith("text.") and name != "index"}
    if len(set(rows.values())) > 1:
        raise Malformed("its columns have different lengths")
    if "vectors" in columns and columns["vectors"].shape[1] != header.get("encoder", {}).get("dim"):
        raise Malformed("its vectors have another dimension than its encoder")
    return header, columns


def _plain(name: str, column: object, size: int) -> h5py.Dataset:
    """Return a column, if it is a plain dataset of its kind."""
    kind, axes = COLUMNS[name]
    if not isinstance(column, h5py.Dataset):
        raise Malformed(f"its column {name} is no dataset")
    plan = column.id.get_create_plist()
    if plan.get_layout() not in _PLAIN or plan.get_nfilters() or plan.get_external_count():
        raise Malformed(f"its column {name} lies elsewhere or is filtered")
    if column.dtype != kind or column.shape is None or column.ndim != axes:
        raise Malformed(f"its column {name} is {column.dtype} {list(column.shape or ())}")
    start = column.id.get_offset()
    if column.nbytes > size or (start is not None and start + column.nbytes > size):
        raise Malformed(f"its column {name} is larger than the file")
    return column


def _header(file: h5py.File) -> dict[str, Any]:
    """Return the header, each part of it of its kind."""
    text = file.attrs["header"]
    header = json.loads(text) if isinstance(text, str) else None
    if not isinstance(header, dict):
        raise Malformed("its header is no JSON object")
    if header.get("kind") not in (*KINDS, "cells"):
        raise Malformed(f"its kind is {told(header.get('kind'))}")
    for name in ("seq", "first", "parts", "next_id"):
        if name in header and not _whole(header[name], _MOST):
            raise Malformed(f"its {name} is no number")
    if header.get("base") not in (None, "first", "part") or ("base" in header and not {"first", "parts"} <= {*header}):
        raise Malformed("its place in a compaction is not told")
    encoders = [header["encoder"]] if "encoder" in header else []
    for one in [*encoders, *_items(header.get("encoders", []))]:
        texts = isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("name", "fingerprint"))
        if not texts or not _whole(one.get("dim"), 2**31):
            raise Malformed("its encoder is none")
    settings = header.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise Malformed("its settings are no texts")
    for names in [header.get("attributes", []), *_items(header.get("groups", []))]:
        if not all(isinstance(name, str) for name in _items(names)):
            raise Malformed("its attributes are no names")
    return header


def _items(found: object) -> list[Any]:
    """Return a list of the header; Malformed where it is none."""
    if not isinstance(found, list):
        raise Malformed("its header has something else where a list is to be")
    return found


def _whole(found: object, most: int) -> bool:
    """Whether a value is a whole number that is not negative."""
    return isinstance(found, int) and not isinstance(found, bool) and 0 <= found < most

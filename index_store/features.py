"""Sealed shards: every change of a store is one HDF5 file, written whole and never touched again.

The one idea: the shards in order are a log from which the catalog can be restored. A shard is written to a
temporary name, flushed to disk, renamed, and its folder flushed, before a catalog row names it. A digest of
everything that could change an answer (vectors, ids, keys, labels, header) stands in the file itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from index_store.errors import RgunitError

SUFFIX = ".h5"
TEMPORARY = ".writing"

Texts = Sequence[str | None]


class ShardDamaged(RgunitError):
    """A shard that cannot be read or whose content does not match its digest."""


@dataclass(frozen=True)
class Record:
    """One change: `kind` says what it does, arrays and texts are its columns, the header is small JSON.

    A text column is a list with one entry a row, or one str for all rows.
    """

    kind: str
    header: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    texts: Mapping[str, Texts | str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows in the record."""
        return len(self.arrays["ids"]) if "ids" in self.arrays else 0

    def text(self, name: str) -> Texts:
        """Return a text column as a list with one entry a row (all None where the record lacks it)."""
        column = self.texts.get(name)
        return [column] * self.rows if column is None or isinstance(column, str) else column


@dataclass(frozen=True)
class Sealed:
    """What the catalog keeps of a shard."""

    file: str
    size: int
    digest: str


def shard_name(seq: int, kind: str) -> str:
    """Return the file name of a shard: its place in the log and what it does."""
    return f"{seq:08d}-{kind}{SUFFIX}"


def shard_seq(name: str) -> int | None:
    """Return the place in the log that a file name tells, None if it is no shard's name."""
    head, dash, _ = name.partition("-")
    return int(head) if dash and head.isdigit() and name.endswith(SUFFIX) else None


def seal(folder: Path, seq: int, record: Record, step: Any = None) -> Sealed:
    """Write a record durably and return what the catalog must keep. `step` is called before each step (tests)."""
    step = step or (lambda name: None)
    target = folder / shard_name(seq, record.kind)
    temporary = target.with_name(target.name + TEMPORARY)
    header = json.dumps({**record.header, "kind": record.kind, "seq": seq}, sort_keys=True)
    columns = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    for name, text in record.texts.items():
        encoded = json.dumps(text if isinstance(text, str) else list(text), ensure_ascii=False).encode()
        columns[f"text.{name}"] = np.frombuffer(encoded, np.uint8)
    digest = _digest(header, columns)
    try:
        step("write")
        with h5py.File(
            temporary, "w", libver="latest", locking=False, alignment_threshold=1, alignment_interval=64
        ) as file:
            file.attrs["header"] = header
            file.attrs["digest"] = digest
            for name, column in columns.items():
                file.create_dataset(name, data=column)
        step("fsync")
        _sync(temporary)
        step("rename")
        temporary.rename(target)
        step("fsync folder")
        _sync(folder)
    except Exception:
        temporary.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        raise
    return Sealed(target.name, target.stat().st_size, digest)


def read(path: Path, *, check: bool = False, vectors: bool = True) -> Record:
    """Read a shard. `check` compares it with its digest; without `vectors` that column is left out.

    Raises ShardDamaged, which names the file.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            header = str(file.attrs["header"])
            names = [name for name in file if vectors or check or name != "vectors"]
            columns = {name: file[name][()] for name in names}
            if check and _digest(header, columns) != file.attrs["digest"]:
                raise ShardDamaged(f"{path.name}: its content does not match its digest")
        meta = json.loads(header)
        texts = {
            name.removeprefix("text."): json.loads(column.tobytes())
            for name, column in columns.items()
            if name.startswith("text.")
        }
    except ShardDamaged:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise ShardDamaged(f"{path.name}: cannot be read ({str(error).splitlines()[0]})") from error
    if not vectors:
        columns.pop("vectors", None)
    arrays = {name: column for name, column in columns.items() if not name.startswith("text.")}
    return Record(meta.pop("kind"), meta, arrays, texts)


def map_vectors(path: Path) -> npt.NDArray[np.float32]:
    """Return the vectors of a shard, float32 [n, d], memory-mapped and read-only."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            data = file["vectors"]
            shape, offset = data.shape, data.id.get_offset()
            if offset is None:  # an empty dataset has no place in the file
                return np.zeros(shape, np.float32)
        return np.memmap(path, np.float32, "r", offset=offset, shape=shape)
    except Exception as error:
        raise ShardDamaged(f"{path.name}: cannot be read ({str(error).splitlines()[0]})") from error


def stored_digest(path: Path) -> str:
    """Return the digest that a shard carries."""
    with h5py.File(path, "r", locking=False) as file:
        return str(file.attrs["digest"])


def _digest(header: str, columns: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the sha-256 of the header and of every column with its name, type and shape."""
    total = hashlib.sha256(header.encode())
    for name in sorted(columns):
        column = columns[name]
        total.update(f"{name}:{column.dtype.str}:{column.shape}".encode())
        total.update(np.ascontiguousarray(column).data if column.size else b"")
    return total.hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

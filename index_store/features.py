"""Sealed shards: every change of a store is one HDF5 file, written whole and never touched again.

The one idea: the shards in order are a log from which the catalog can be restored. A shard is written to a
temporary name with its seal (`seal.py`), flushed to disk, renamed, and its folder flushed, before a catalog row
names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from index_store import places, shardform
from index_store import seal as sealing
from index_store.forking import natively
from index_store.whole import WRITING, sync_folder

SUFFIX = ".h5"

Texts = Sequence[str | None]
Step = Callable[[str], None]


class ShardDamaged(sealing.Damaged):
    """A shard that cannot be read or whose content does not match its digest."""


class ShardMissing(ShardDamaged):
    """A shard that is not there: lost, or merged by a compaction since the catalog was read."""


@dataclass(frozen=True)
class Record:
    """One change: `kind` says what it does, arrays and texts are its columns, the header is small JSON.

    A text column is a list with one entry for each row, or one str for all rows.
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
        """Return a text column as a list with one entry for each row (all None where the record lacks it)."""
        column = self.texts.get(name)
        return [column] * self.rows if column is None or isinstance(column, str) else column


@dataclass(frozen=True)
class Sealed:
    """What the catalog keeps of a shard."""

    file: str
    size: int
    digest: str


def seal(folder: Path, seq: int, record: Record, step: Step) -> Sealed:
    """Write a record durably and return what the catalog must keep; `step` is called before each step with its name.

    On failure nothing is left behind, and the error is raised again (OSError where the disk is full).
    """
    target = folder / places.shard_name(seq, record.kind)
    record = Record(record.kind, {**record.header, "seq": seq}, record.arrays, record.texts)
    return seal_file(target, record, step)


def seal_file(target: Path, record: Record, step: Step = lambda name: None) -> Sealed:
    """Write a record durably to a file of any name; see `seal`."""
    temporary = target.with_name(target.name + WRITING)
    header = json.dumps({**record.header, "kind": record.kind}, sort_keys=True)
    columns = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    for name, text in record.texts.items():
        encoded = json.dumps(text if isinstance(text, str) else list(text), ensure_ascii=False).encode()
        columns[f"text.{name}"] = np.frombuffer(encoded, np.uint8)
    step("write")
    renamed = False
    try:
        with temporary.open("wb") as file:
            content = _image(header, columns)
            tail = sealing.trailer(content)
            file.write(content.data)
            file.write(tail)
            file.flush()
            step("fsync")
            os.fsync(file.fileno())
        step("rename")
        temporary.rename(target)
        renamed = True
        step("fsync folder")
        sync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        if renamed:  # else what lies there is another's
            target.unlink(missing_ok=True)
        raise
    return Sealed(target.name, len(content) + len(tail), sealing.digest_of(target))


def _image(header: str, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """Return the bytes of an HDF5 file, made in memory so that a full disk can leave no half-open file behind."""
    size = sum(column.nbytes for column in columns.values())
    with h5py.File(
        "sealed",
        "w",
        driver="core",
        backing_store=False,
        block_size=max(size, 65536),
        libver="latest",
        alignment_interval=64,
    ) as file:
        file.attrs["header"] = header
        for name, column in columns.items():
            file.create_dataset(name, data=column)
        file.flush()
        return np.frombuffer(file.id.get_file_image(), np.uint8)


@natively
def read(path: Path, *, check: bool = False, vectors: bool = True, only: Sequence[str] | None = None) -> Record:
    """Read a shard. With `check` its digest is compared first; without `vectors` that column is left out; `only`
    names the columns wanted.

    Raises ShardDamaged, which names the file, and ShardMissing.
    """
    if not path.exists():
        raise ShardMissing(f"{path.name}: is missing")
    try:
        if check and (wrong := sealing.check(path)[1]):
            raise ShardDamaged(f"{path.name}: {wrong}")
        with places.opened(path), h5py.File(path, "r", locking=False) as file:
            meta, found = shardform.check(file, path.stat().st_size)
            columns = {
                name: column[()]
                for name, column in found.items()
                if (vectors or name != "vectors") and (only is None or name.removeprefix("text.") in only)
            }
        texts = {
            name.removeprefix("text."): json.loads(column.tobytes())
            for name, column in columns.items()
            if name.startswith("text.")
        }
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise _unreadable(path, error) from error
    arrays = {name: column for name, column in columns.items() if not name.startswith("text.")}
    return Record(meta.pop("kind"), meta, arrays, texts)


@natively
def map_vectors(path: Path) -> npt.NDArray[np.float32]:
    """Return the vectors of a shard, float32 [n, d], memory-mapped and read-only."""
    if not path.exists():
        raise ShardMissing(f"{path.name}: is missing")
    try:
        with places.opened(path), h5py.File(path, "r", locking=False) as file:
            data = shardform.check(file, path.stat().st_size)[1]["vectors"]
            shape, offset = data.shape, data.id.get_offset()
            if offset is None:  # an empty dataset has no place in the file
                return np.zeros(shape, np.float32)
        return np.asarray(np.memmap(path, np.float32, "r", offset=offset, shape=shape))
    except Exception as error:
        raise _unreadable(path, error) from error


@natively
def map_checked(path: Path, column: str) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
    """Return the header of a sealed file and one of its columns, uint8 [n], memory-mapped; the digest is compared
    first. One open file is looked at throughout. Raises ShardDamaged and ShardMissing."""
    try:
        with places.opened(path) as file:
            data = np.memmap(file, np.uint8, "r")
            if wrong := sealing.check_bytes(data)[1]:
                raise ShardDamaged(f"{path.name}: {wrong}")
            with h5py.File(file, "r") as content:
                header, columns = shardform.check(content, len(data))
                found = columns[column]
                start = found.id.get_offset()
                return header, data[start : start + found.size]
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ShardDamaged:
    """What reading failed by: a compaction may take a file away at any moment, also between two looks at it."""
    if not path.exists():
        return ShardMissing(f"{path.name}: is missing")
    if isinstance(error, ShardDamaged):
        return error
    return ShardDamaged(f"{path.name}: cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})")

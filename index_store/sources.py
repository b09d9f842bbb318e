"""Vectors that lie in files made elsewhere: NumPy's, a FAISS index, Parquet, or what `export` wrote.

The one idea: a source says how much it holds and gives it in blocks, from where it lies; keys and labels of other files
are laid over it.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store import flatfile
from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.exporting import ABOUT, COLUMNS, IDS, LABELS, ROWS, VECTORS, parquet_modules
from index_store.tables import NOT_TOLD, Known, read_labels

DEFAULT_NAME = "imported"


@dataclass(frozen=True)
class Part:
    """A block of a source: vectors [m, d] of any float type, and what it tells of their rows (None: nothing).

    `unlabelled`: how many rows a table of labels says nothing of.
    """

    vectors: npt.NDArray[Any]
    keys: list[str] | None = None
    labels: npt.NDArray[np.int8] | None = None
    unlabelled: int = 0
    split: list[str] | None = None
    origin: list[str] | None = None


@dataclass(frozen=True)
class Source:
    """Vectors that lie somewhere: how many, of which dimension, the names of their labels, what made them."""

    rows: int
    dim: int
    blocks: Callable[[int], Iterator[Part]]
    attributes: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    encoder: str = DEFAULT_NAME
    fingerprint: str = ""


def open_source(path: Path) -> Source:
    """Look at what lies at a path; RgunitError where it is none of the forms that can be imported."""
    if not path.exists():
        raise RgunitError(f"{path} does not exist")
    if path.is_dir():
        return _open_folder(path)
    forms = {".npy": _open_npy, ".faiss": _open_faiss, ".parquet": _open_parquet}
    if path.suffix.lower() not in forms:
        raise RgunitError(f"{path}: its name ends on none of {', '.join(forms)}, and it is no folder that export wrote")
    return forms[path.suffix.lower()](path)


def _open_npy(path: Path) -> Source:
    vectors = _array(path, 2)
    if vectors.dtype.kind != "f" or not vectors.shape[1]:
        raise RgunitError(f"{path} holds {vectors.dtype} {list(vectors.shape)}, not floating-point numbers [n, d]")

    def blocks(rows: int) -> Iterator[Part]:
        for start in range(0, len(vectors), rows):
            yield Part(vectors[start : start + rows])

    return Source(len(vectors), vectors.shape[1], blocks)


def _open_faiss(path: Path) -> Source:
    ids, vectors = flatfile.read(path)

    def blocks(rows: int) -> Iterator[Part]:
        for start in range(0, len(vectors), rows):
            part = None if ids is None else [f"{path.stem}/{number}" for number in ids[start : start + rows].tolist()]
            yield Part(vectors[start : start + rows], part)

    return Source(len(vectors), vectors.shape[1], blocks)


def _open_folder(path: Path) -> Source:
    """What `export --format npy` wrote."""
    try:
        about = json.loads((path / ABOUT).read_text())
        encoder, names = about["encoder"], tuple(str(name) for name in about["attributes"])
        groups = tuple(tuple(str(name) for name in group) for group in about["groups"])
        name, fingerprint = str(encoder["name"]), str(encoder["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RgunitError(
            f"{path} is no folder that `rgunit index export` wrote: its {ABOUT} cannot be read"
        ) from error
    vectors, ids = _array(path / VECTORS, 2), _array(path / IDS, 1)
    labels = _array(path / LABELS, 2) if names else None
    if len(ids) != len(vectors) or (labels is not None and labels.shape != (len(vectors), len(names))):
        raise RgunitError(f"{path}: {VECTORS}, {IDS} and {LABELS} do not fit each other")
    if labels is not None and labels.dtype != np.int8:
        raise RgunitError(f"{path / LABELS} holds {labels.dtype}, not int8: labels are 1, 0 or -1 (unknown)")

    def blocks(rows: int) -> Iterator[Part]:
        with _reading(path / ROWS), (path / ROWS).open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            for start in range(0, len(vectors), rows):
                told = list(itertools.islice(table, len(vectors[start : start + rows])))
                if len(told) < len(vectors[start : start + rows]) or not set(COLUMNS) <= set(table.fieldnames or ()):
                    raise RgunitError(f"{path / ROWS} has fewer rows than {VECTORS}, or lacks columns")
                yield Part(
                    vectors[start : start + rows],
                    [row["key"] or f"{name}/{row['id']}" for row in told],
                    None if labels is None else labels[start : start + rows],
                    split=[row["split"] for row in told],
                    origin=[row["origin"] for row in told],
                )

    return Source(len(vectors), vectors.shape[1], blocks, names, groups, name, fingerprint)


def _open_parquet(path: Path) -> Source:
    """A Parquet file with a column `vector`; `key`, `split`, `origin` and a struct `labels` where it has them. One that
    `export` wrote names the rows without a key by their ids, as the other forms do."""
    arrow, parquet = parquet_modules()
    with _reading(path):
        file = parquet.ParquetFile(path, memory_map=True)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        if "vector" not in schema.names or not rows:
            raise RgunitError(f"{path} has no rows with a column `vector`; its columns: {', '.join(schema.names)}")
        _check_columns(path, schema)
        dim = len(next(file.iter_batches(1, columns=["vector"])).column(0)[0].as_py() or ())
    if not dim:
        raise RgunitError(f"{path}: the first row has no vector")
    columns = [name for name in ("vector", "key", "split", "origin", "labels") if name in schema.names]
    if b"rgunit" in (schema.metadata or {}) and {"id", "key"} <= set(schema.names):
        columns.append("id")
    names = tuple(field.name for field in schema.field("labels").type) if "labels" in columns else ()
    try:
        about: dict[str, Any] = json.loads((schema.metadata or {}).get(b"rgunit", b"{}"))
        encoder = about.get("encoder", {"name": DEFAULT_NAME, "fingerprint": ""})
        name, fingerprint = str(encoder["name"]), str(encoder["fingerprint"])
        groups = tuple(tuple(str(name) for name in group) for group in about.get("groups", ()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RgunitError(f"{path}: what its metadata `rgunit` says of the encoder cannot be read") from error

    def blocks(wanted: int) -> Iterator[Part]:
        from pyarrow import compute

        done = 0
        with _reading(path):
            for batch in file.iter_batches(wanted, columns=columns):
                column = batch.column("vector")
                numbers = column.flatten()
                lengths = set(compute.list_value_length(column).unique().to_pylist())
                if lengths != {dim} or numbers.null_count:
                    last = done + len(column) - 1
                    raise RgunitError(f"{path}: rows {done} to {last} hold vectors of several lengths")
                told = {text: batch.column(text).to_pylist() for text in columns if text not in ("vector", "labels")}
                places = told.pop("id", range(done, done + len(column)))
                texts = {text: ["" if one is None else str(one) for one in told[text]] for text in told}
                keys = texts.get("key")
                if keys is not None:
                    keys = [key or f"{name}/{row}" for key, row in zip(keys, places, strict=True)]
                labels = None
                if names:
                    truth = [part.cast(arrow.int8()).fill_null(-1) for part in batch.column("labels").flatten()]
                    labels = np.stack([part.to_numpy(zero_copy_only=False) for part in truth], axis=1).astype(np.int8)
                yield Part(
                    numbers.to_numpy(zero_copy_only=False).reshape(len(column), dim),
                    keys,
                    labels,
                    split=texts.get("split"),
                    origin=texts.get("origin"),
                )
                done += len(column)

    return Source(rows, dim, blocks, names, groups, name, fingerprint)


def _check_columns(path: Path, schema: Any) -> None:
    """Refuse columns of a Parquet file that are not what their names say."""
    from pyarrow import types

    def texts(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_null))

    def vectors(kind: Any) -> bool:
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        return any(is_kind(kind) for is_kind in lists) and types.is_floating(kind.value_type)

    def bits(kind: Any) -> bool:
        bit = (types.is_boolean, types.is_integer, types.is_null)
        return types.is_struct(kind) and all(any(is_kind(field.type) for is_kind in bit) for field in kind)

    wanted = {
        "vector": (vectors, "lists of floating-point numbers"),
        "key": (lambda kind: texts(kind) or types.is_integer(kind), "texts or whole numbers"),
        "split": (texts, "texts"),
        "origin": (texts, "texts"),
        "labels": (bits, "a struct of booleans (null: unknown)"),
    }
    for name, (fits, what) in wanted.items():
        if name in schema.names and not fits(schema.field(name).type):
            raise RgunitError(f"{path}: column `{name}` holds {schema.field(name).type}, not {what}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around reading a file: what it fails by is one line that names it."""
    try:
        yield
    # PyArrow's error for a codec or a type that it cannot read is a NotImplementedError.
    except (OSError, ValueError, NotImplementedError, csv.Error) as error:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise RgunitError(f"{path} cannot be read ({why})") from error


def with_keys(source: Source, path: Path) -> Source:
    """The source with the keys of a file: a line each, or a `.npy` of texts or whole numbers."""
    if path.suffix.lower() == ".npy":
        array = _array(path, 1)
        if array.dtype.kind not in "Uiu":
            raise RgunitError(f"{path} holds {array.dtype}: keys are texts or whole numbers")
        count = len(array)
    else:
        count = sum(1 for _ in _lines(path))
    if count != source.rows:
        raise RgunitError(f"{path} has {count} keys for {source.rows} vectors: one a vector, in their order")

    def blocks(rows: int) -> Iterator[Part]:
        told = map(str, array) if path.suffix.lower() == ".npy" else _lines(path)
        for part in source.blocks(rows):
            yield replace(part, keys=list(itertools.islice(told, len(part.vectors))))

    return replace(source, blocks=blocks)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file (UTF-8, with or without its mark)."""
    with _reading(path), path.open(encoding="utf-8-sig") as file:
        for line in file:
            yield line.rstrip("\r\n")


def with_labels(source: Source, path: Path, names: tuple[str, ...], keyed: bool) -> Source:
    """The source with the labels of a file: a `.npy` whose columns have `names`, or a table.

    The table's rows are found by their keys, or (`keyed` False, and the source tells none) stand in the order of the
    vectors.
    """
    if path.suffix.lower() == ".npy":
        array = _array(path, 2)
        if array.dtype != np.int8 or array.shape != (source.rows, len(names)):
            raise RgunitError(
                f"{path} holds {array.dtype} {list(array.shape)}, not int8 [{source.rows}, {len(names)}]: labels are "
                "1, 0 or -1 (unknown), and --attributes names their columns"
            )

        def from_array(rows: int) -> Iterator[Part]:
            done = 0
            for part in source.blocks(rows):
                stop = done + len(part.vectors)
                yield replace(part, labels=np.asarray(array[done:stop]))
                done = stop

        return replace(source, blocks=from_array, attributes=names, groups=())
    if names:
        raise UsageError("--attributes names the columns of labels in a .npy file; a table names its own")
    table = read_labels(path, Known(AttributeSchema((), ())))
    if not table.attributes:
        raise RgunitError(f"{path} has no attribute column: its values are 0/1, -1/1, true/false or yes/no")
    told = np.array(list(table.attributes.values()), np.int8).T
    told[told == NOT_TOLD] = -1
    row_of: dict[str, int] = {}
    for row, key in enumerate(table.names):
        if (told[row_of.setdefault(key, row)] != told[row]).any():
            raise RgunitError(f"{path} has {key!r} twice, with other labels: leave one row of it")
    if not keyed and len(table.names) != source.rows:
        raise RgunitError(
            f"{path} has {len(table.names)} rows for {source.rows} vectors: pass --keys FILE to match them"
        )

    def from_table(rows: int) -> Iterator[Part]:
        done = 0
        for part in source.blocks(rows):
            stop = done + len(part.vectors)
            keys = list(table.names[done:stop]) if part.keys is None else part.keys
            places = np.array([row_of.get(key, -1) for key in keys], np.int64)
            labels = np.where(places[:, None] >= 0, told[places], -1).astype(np.int8)
            unlabelled = int((places < 0).sum())
            if unlabelled == source.rows:
                raise RgunitError(f"{path} has labels of none of the keys: {table.names[0]!r} there, {keys[0]!r} here")
            yield replace(part, keys=keys, labels=labels, unlabelled=unlabelled)
            done = stop

    return replace(source, blocks=from_table, attributes=tuple(table.attributes), groups=table.groups)


def _array(path: Path, axes: int) -> npt.NDArray[Any]:
    """An array of NumPy's file, memory-mapped; RgunitError for what is none, or has another number of axes."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays")
    except (OSError, ValueError, EOFError) as error:
        raise RgunitError(f"{path} cannot be read as a .npy file ({str(error).splitlines()[0]})") from error
    if array.ndim != axes:
        raise RgunitError(f"{path} holds an array of shape {list(array.shape)}, which needs {axes} axes")
    return array

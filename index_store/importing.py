"""Vectors that were made elsewhere: NumPy's files, a FAISS index, Parquet, or what `export` wrote.

The one idea: a source gives its rows in blocks, from where they lie; each block is one durable change, and a row's key
says whether it is there already, so an import that was stopped goes on when it is run again.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from index_store import flatfile
from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.exporting import ABOUT, IDS, LABELS, ROWS, VECTORS, Progress, block_rows, parquet_modules
from index_store.features import Record
from index_store.keys import ids_at, ids_of
from index_store.replay import schema_header
from index_store.tables import NOT_TOLD, Known, read_labels

if TYPE_CHECKING:
    from index_store.store import IndexStore

DEFAULT_NAME = "imported"


@dataclass(frozen=True)
class Imported:
    """What an import did: `rows` in the source, `added` as new rows, `attached` to rows that were there, `known` that
    had their vector already."""

    encoder: dict[str, Any]
    rows: int
    added: int
    attached: int
    known: int


@dataclass(frozen=True)
class Part:
    """A block of a source: vectors [m, d] of any float type, and what it tells of their rows (None: nothing)."""

    vectors: npt.NDArray[Any]
    keys: list[str] | None = None
    labels: npt.NDArray[np.int8] | None = None
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


def import_vectors(
    store: IndexStore,
    path: Path | str,
    *,
    encoder: str | None = None,
    keys: Path | str | None = None,
    labels: Path | str | None = None,
    attributes: Sequence[str] = (),
    split: str = "",
    origin: str = "real",
    images: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Bring in vectors [n, d] of a file that was made elsewhere, in durable blocks; run again, it changes nothing.

    `path`: a `.npy` file, a `.faiss` index of plain vectors, a `.parquet` file with a column `vector`, or a folder
    that `export` wrote. `keys`: a text file with a line for each vector, or a `.npy` of texts or whole numbers;
    default: what the source tells, else ENCODER/ROW. `labels`: a `.npy` int8 [n, A] in {1, 0, -1} whose columns
    `attributes` names, or a table as `add` reads it, its first column being the key (the row, where no keys are
    given). A key that is there gets the vector if it has none of this encoder, and keeps its labels. `images`: keys
    are paths of pictures of the workspace. `encoder`: the name of what made the vectors.

    Raises RgunitError for what cannot be read or does not fit, before anything is written, DuplicateKey for a key that
    is taken by another vector.
    """
    source = open_source(Path(path))
    if keys is not None:
        source = _with_keys(source, Path(keys))
    if labels is not None:
        source = _with_labels(source, Path(labels), tuple(attributes), keys is not None)
    elif attributes:
        raise UsageError("names of attributes need labels: pass --labels FILE.npy")
    name = encoder or source.encoder
    fingerprint = source.fingerprint if name == source.encoder else ""
    told = {"name": name, "fingerprint": fingerprint, "dim": source.dim}
    for info in store.encoders():
        if (info.name, info.fingerprint) == (name, fingerprint) and info.dim != source.dim:
            raise RgunitError(
                f"{path} holds vectors of {source.dim} numbers, encoder {name} of {info.dim}: name another"
            )
    if not source.rows:
        raise RgunitError(f"{path} holds no vectors: nothing to import")
    done, added, attached = 0, 0, 0
    with store.catalog.writing():
        schema = store.schema.extend(source.attributes, source.groups)
        if schema != store.schema:
            store.catalog.write(Record("schema", schema_header(schema)))
        columns = store.schema.indices(list(source.attributes))
        for part in source.blocks(block_rows(source.dim)):
            stop = done + len(part.vectors)
            if part.keys is None:
                part = replace(part, keys=[f"{name}/{row}" for row in range(done, stop)])
            try:
                fresh, late = _put(store, part, told, columns, split, origin, images)
            except UsageError as error:
                raise RgunitError(f"{path}, rows {done} to {stop - 1}: {error}; {done} rows before are kept") from error
            added, attached, done = added + fresh, attached + late, stop
            if progress is not None:
                progress(done, source.rows)
    return Imported(told, done, added, attached, done - added - attached)


def _put(
    store: IndexStore,
    part: Part,
    encoder: dict[str, Any],
    columns: Sequence[int],
    split: str,
    origin: str,
    images: bool,
) -> tuple[int, int]:
    """Write a block; return how many rows are new, and how many that were there got a vector."""
    name, fingerprint = encoder["name"], encoder["fingerprint"]
    keys = part.keys or []
    known = ids_at(store.catalog, keys) if images else ids_of(store.catalog, keys)
    if images and len(known) < len(set(keys)):
        strange = next(key for key in keys if key not in known)
        raise RgunitError(f"{strange!r} is no picture of the workspace: `rgunit add` it first, or leave --images out")
    there = np.array([known.get(key, -1) for key in keys], np.int64)
    have = np.isin(there, store.vector_ids(name, fingerprint)) if len(known) else np.zeros(len(keys), np.bool_)
    late = np.flatnonzero((there >= 0) & ~have)
    vectors = np.asarray(part.vectors)
    attached = 0
    if len(late):
        attached = store.attach(there[late], vectors[late], encoder=name, fingerprint=fingerprint)
    rows = np.flatnonzero((there < 0) | have)
    if images or not len(rows):
        return 0, attached
    labels = np.full((len(rows), len(store.schema)), -1, np.int8)
    if part.labels is not None:
        labels[:, columns] = part.labels[rows]
    before = store.catalog.next_id()
    texts = {
        "split": [part.split[row] for row in rows] if part.split else split,
        "origin": [part.origin[row] for row in rows] if part.origin else origin,
    }
    ids = store.add(
        vectors[rows],
        labels=labels,
        keys=[keys[row] for row in rows],
        encoder=name,
        fingerprint=fingerprint,
        split=texts["split"],
        origin=texts["origin"],
    )
    return int((ids >= before).sum()), attached


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

    def blocks(rows: int) -> Iterator[Part]:
        with (path / ROWS).open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            for start in range(0, len(vectors), rows):
                told = list(itertools.islice(table, len(vectors[start : start + rows])))
                if len(told) < len(vectors[start : start + rows]) or set(table.fieldnames or ()) < {"key", "split"}:
                    raise RgunitError(f"{path / ROWS} has fewer rows than {VECTORS}, or lacks columns")
                yield Part(
                    vectors[start : start + rows],
                    [row["key"] or f"{name}/{row['id']}" for row in told],
                    None if labels is None else labels[start : start + rows],
                    [row["split"] for row in told],
                    [row["origin"] for row in told],
                )

    return Source(len(vectors), vectors.shape[1], blocks, names, groups, name, fingerprint)


def _open_parquet(path: Path) -> Source:
    """A Parquet file with a column `vector`; `key`, `split`, `origin` and a struct `labels` where it has them."""
    arrow, parquet = parquet_modules()
    from pyarrow import compute

    try:
        file = parquet.ParquetFile(path, memory_map=True)
    except (OSError, arrow.ArrowInvalid) as error:
        raise RgunitError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    schema, rows = file.schema_arrow, file.metadata.num_rows
    if "vector" not in schema.names or not rows:
        raise RgunitError(f"{path} has no rows with a column `vector`; its columns: {', '.join(schema.names)}")
    dim = len(next(file.iter_batches(1, columns=["vector"])).column(0)[0].as_py() or ())
    columns = [name for name in ("vector", "key", "split", "origin", "labels") if name in schema.names]
    names = tuple(field.name for field in schema.field("labels").type) if "labels" in columns else ()
    about: dict[str, Any] = json.loads((schema.metadata or {}).get(b"rgunit", b"{}"))
    encoder = about.get("encoder", {"name": DEFAULT_NAME, "fingerprint": ""})

    def blocks(wanted: int) -> Iterator[Part]:
        done = 0
        for batch in file.iter_batches(wanted, columns=columns):
            column = batch.column("vector")
            numbers = column.flatten()
            lengths = set(compute.list_value_length(column).unique().to_pylist())
            if lengths != {dim} or numbers.null_count:
                raise RgunitError(f"{path}: rows {done} to {done + len(column) - 1} hold vectors of several lengths")
            told = [name for name in columns if name not in ("vector", "labels")]
            texts = {name: [text or "" for text in batch.column(name).to_pylist()] for name in told}
            keys = texts.get("key")
            if keys is not None:
                keys = [key or f"{encoder['name']}/{done + row}" for row, key in enumerate(keys)]
            labels = None
            if names:
                truth = [part.cast(arrow.int8()).fill_null(-1) for part in batch.column("labels").flatten()]
                labels = np.stack([part.to_numpy(zero_copy_only=False) for part in truth], axis=1).astype(np.int8)
            yield Part(
                numbers.to_numpy(zero_copy_only=False).reshape(len(column), dim),
                keys,
                labels,
                texts.get("split"),
                texts.get("origin"),
            )
            done += len(column)

    groups = tuple(tuple(group) for group in about.get("groups", ()))
    return Source(rows, dim, blocks, names, groups, str(encoder["name"]), str(encoder["fingerprint"]))


def _with_keys(source: Source, path: Path) -> Source:
    """The source with the keys of a file."""
    if path.suffix.lower() == ".npy":
        array = _array(path, 1)
        if array.dtype.kind not in "Uiu":
            raise RgunitError(f"{path} holds {array.dtype}: keys are texts or whole numbers")
        count = len(array)
    else:
        array = None
        with _text(path) as file:
            count = sum(1 for _ in file)
    if count != source.rows:
        raise RgunitError(f"{path} has {count} keys for {source.rows} vectors: one a vector, in their order")

    def blocks(rows: int) -> Iterator[Part]:
        done = 0
        with _text(path) as file:
            for part in source.blocks(rows):
                stop = done + len(part.vectors)
                if array is None:
                    keys = [line.rstrip("\r\n") for line in itertools.islice(file, stop - done)]
                else:
                    keys = [str(key) for key in array[done:stop].tolist()]
                yield replace(part, keys=keys)
                done = stop

    return replace(source, blocks=blocks)


def _text(path: Path) -> Any:
    """A text file, opened; of a `.npy` nothing is read."""
    try:
        return path.open(encoding="utf-8", errors="surrogateescape" if path.suffix.lower() == ".npy" else "strict")
    except OSError as error:
        raise RgunitError(f"{path} cannot be read ({error.strerror})") from error


def _with_labels(source: Source, path: Path, names: tuple[str, ...], keyed: bool) -> Source:
    """The source with the labels of a file."""
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
    row_of = {key: row for row, key in enumerate(table.names)}
    if not keyed and len(table.names) != source.rows:
        raise RgunitError(
            f"{path} has {len(table.names)} rows for {source.rows} vectors: pass --keys FILE to match them"
        )

    def from_table(rows: int) -> Iterator[Part]:
        done = 0
        for part in source.blocks(rows):
            stop = done + len(part.vectors)
            keys = part.keys if keyed or part.keys is not None else list(table.names[done:stop])
            places = np.array([row_of.get(key, -1) for key in keys or ()], np.int64)
            labels = np.where(places[:, None] >= 0, told[places], -1).astype(np.int8)
            yield replace(part, keys=keys, labels=labels)
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

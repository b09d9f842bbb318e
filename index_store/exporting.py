"""Vectors for other programs: what a store holds, as Parquet, as NumPy's files, or as a FAISS index.

The one idea: rows go out in blocks in the order of their ids, so memory does not grow with the store; what is written
lies under another name until it is whole.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from index_store import flatfile
from index_store.errors import RgunitError, UsageError
from index_store.keys import keys_of
from index_store.whole import WRITING

if TYPE_CHECKING:
    from index_store.state import State, Table
    from index_store.store import IndexStore

FORMATS = ("parquet", "npy", "faiss")
BLOCK_BYTES = 64 * 2**20
VECTORS, IDS, LABELS, ROWS, ABOUT = "vectors.npy", "ids.npy", "labels.npy", "rows.csv", "about.json"
COLUMNS = ("id", "key", "split", "origin")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """What was written: `encoder` is name and fingerprint, `files` lists the names below `path` (or its own)."""

    path: Path
    encoder: dict[str, Any]
    rows: int
    files: list[str]


@dataclass(frozen=True)
class Block:
    """Some rows: ids int64 [m], vectors float32 [m, d], labels int8 [m, A] in {1, 0, -1}, texts of length m."""

    ids: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int8]
    keys: list[str | None]
    split: list[str]
    origin: list[str]


def block_rows(dim: int) -> int:
    """How many vectors of `dim` float32 numbers are handled at a time."""
    return max(1, BLOCK_BYTES // (4 * dim))


def export_vectors(
    store: IndexStore,
    path: Path | str,
    *,
    form: str,
    encoder: str | None = None,
    where: str | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the vectors of an encoder (default: the only one) whose rows pass a filter to a new file or folder.

    `npy`: a folder with vectors float32 [n, d], ids int64 [n], labels int8 [n, A] (1, 0, -1 unknown), id, key, split
    and origin as CSV, and what they are as JSON. `parquet`: one file with the same as columns (needs the extra
    `rgunit[parquet]`). `faiss`: an `IndexIDMap2` of `IndexFlatL2`, ids and vectors alone. UsageError for another form,
    RgunitError where the path is taken or nothing passes.
    """
    if form not in FORMATS:
        raise UsageError(f"unknown format {form!r}: there are {', '.join(FORMATS)}")
    target = Path(path).absolute()
    if target.exists():
        raise RgunitError(f"{target} is there already: choose another name, or delete it")
    state, table = store.snapshot(encoder)
    places = _places(state, table, where)
    if not len(places):
        raise RgunitError(f"no vector of encoder {table.info.name} passes {where!r}: nothing was written")
    made_by = {"name": table.info.name, "fingerprint": table.info.fingerprint, "dim": table.info.dim}
    about = {
        "encoder": made_by,
        "rows": len(places),
        "attributes": list(state.schema.names),
        "groups": [list(group) for group in state.schema.groups],
    }
    writers = {"parquet": _write_parquet, "npy": _write_npy, "faiss": _write_faiss}
    with _whole(target) as part:
        writers[form](part, table.ids[places], about, _blocks(store, state, table, places, progress))
        files = sorted(file.name for file in part.iterdir()) if part.is_dir() else [target.name]
    return Exported(target, made_by, len(places), files)


def _places(state: State, table: Table, where: str | None) -> npt.NDArray[np.int64]:
    """The places of the rows that pass a filter, in the order of their ids."""
    wanted = state.schema.filter(where)
    keep = table.rows >= 0
    if not wanted.everything and len(state.ids):
        keep &= state.mask(wanted)[table.rows]
    places = np.flatnonzero(keep)
    return places[np.argsort(table.ids[places], kind="stable")]


def _blocks(
    store: IndexStore, state: State, table: Table, places: npt.NDArray[np.int64], progress: Progress | None
) -> Iterator[Block]:
    """The rows at some places, a block at a time."""
    step = block_rows(table.info.dim)
    names = np.array(state.names, object)
    for start in range(0, len(places), step):
        part = places[start : start + step]
        ids, rows = table.ids[part], table.rows[part]
        keys = keys_of(store.catalog, ids)
        yield Block(
            ids,
            table.gather(part),
            state.schema.unpack(state.known[rows], state.value[rows]),
            keys,
            names[state.split[rows]].tolist(),
            names[state.origin[rows]].tolist(),
        )
        if progress is not None:
            progress(min(start + step, len(places)), len(places))


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A name to write under; what lies there becomes `target` at the end, and is gone after a failure."""
    part = target.with_name(target.name + WRITING)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _delete(part)
        yield part
        part.rename(target)
    except OSError as error:
        raise RgunitError(f"cannot write {target}: {error.strerror or error}; nothing was kept") from error
    finally:
        with suppress(OSError):
            _delete(part)


def _delete(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_npy(part: Path, ids: npt.NDArray[np.int64], about: dict[str, Any], blocks: Iterator[Block]) -> None:
    """Write a folder of NumPy's files."""
    part.mkdir()
    rows, dim, names = about["rows"], about["encoder"]["dim"], about["attributes"]
    np.save(part / IDS, ids)
    with ExitStack() as stack:
        vectors = stack.enter_context(_npy(part / VECTORS, "<f4", (rows, dim)))
        labels = stack.enter_context(_npy(part / LABELS, "|i1", (rows, len(names)))) if names else None
        table = csv.writer(stack.enter_context((part / ROWS).open("w", encoding="utf-8", newline="")))
        table.writerow(COLUMNS)
        for block in blocks:
            vectors.write(np.ascontiguousarray(block.vectors, "<f4").data)
            if labels is not None:
                labels.write(np.ascontiguousarray(block.labels).data)
            table.writerows(zip(block.ids.tolist(), block.keys, block.split, block.origin, strict=True))
    (part / ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=1))


def _npy(path: Path, descr: str, shape: tuple[int, int]) -> BinaryIO:
    """A new NumPy file, its header written. Its rows are written, not mapped: on a full disk a map is a crash."""
    file = path.open("wb")
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file


def _write_faiss(part: Path, ids: npt.NDArray[np.int64], about: dict[str, Any], blocks: Iterator[Block]) -> None:
    """Write a FAISS index."""
    flatfile.write(part, ids, about["encoder"]["dim"], (block.vectors for block in blocks))


def _write_parquet(part: Path, ids: npt.NDArray[np.int64], about: dict[str, Any], blocks: Iterator[Block]) -> None:
    """Write a Parquet file: id, key, split, origin, labels (a struct of booleans, null is unknown), vector."""
    arrow, parquet = parquet_modules()
    dim, names = about["encoder"]["dim"], about["attributes"]
    label = arrow.struct([arrow.field(name, arrow.bool_()) for name in names])
    fields = [("id", arrow.int64()), *((name, arrow.string()) for name in COLUMNS[1:])]
    fields += [("labels", label)] if names else []
    schema = arrow.schema(
        [*fields, ("vector", arrow.list_(arrow.float32(), dim))],
        metadata={"rgunit": json.dumps(about, ensure_ascii=False)},
    )
    with parquet.ParquetWriter(part, schema) as writer:
        for block in blocks:
            columns = [arrow.array(block.ids), *(arrow.array(one) for one in (block.keys, block.split, block.origin))]
            columns[1:] = [column.cast(arrow.string()) for column in columns[1:]]
            if names:
                truth = [arrow.array(column == 1, mask=column < 0, type=arrow.bool_()) for column in block.labels.T]
                columns.append(arrow.StructArray.from_arrays(truth, names))
            flat = arrow.array(block.vectors.ravel())
            columns.append(arrow.FixedSizeListArray.from_arrays(flat, dim))
            writer.write_batch(arrow.record_batch(columns, schema=schema))


def parquet_modules() -> tuple[Any, Any]:
    """PyArrow and its Parquet part; RgunitError says how to install them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RgunitError(
            "Parquet needs PyArrow, which is not installed: pip install 'rgunit[parquet]'; npy and faiss need nothing"
        ) from error
    return pyarrow, pyarrow.parquet

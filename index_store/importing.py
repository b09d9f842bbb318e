"""Vectors that were made elsewhere: NumPy's files, a FAISS index, Parquet, or what `export` wrote.

The one idea: a source gives its rows in blocks, from where they lie; each block is one durable change, and a row's key
says whether it is there already, so an import that was stopped goes on when it is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from index_store.attributes import ORIGINS
from index_store.batch import as_vectors
from index_store.errors import DuplicateKey, RgunitError, UsageError
from index_store.exporting import Progress, block_rows
from index_store.features import Record
from index_store.keys import ids_at, ids_of
from index_store.replay import schema_header
from index_store.sources import Part, open_source, with_keys, with_labels

if TYPE_CHECKING:
    from index_store.store import IndexStore


@dataclass(frozen=True)
class Imported:
    """What an import did: `rows` in the source, `added` as new rows, `attached` to rows that were there, `known` that
    had their vector already; `unlabelled`: rows that the table of labels says nothing of."""

    encoder: dict[str, Any]
    rows: int
    added: int
    attached: int
    known: int
    unlabelled: int = 0


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
        source = with_keys(source, Path(keys))
    if labels is not None:
        source = with_labels(source, Path(labels), tuple(attributes), keys is not None)
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
    done, added, attached, unlabelled = 0, 0, 0, 0
    with store.catalog.writing():
        schema = store.schema.extend(source.attributes, source.groups)
        for part in source.blocks(block_rows(source.dim)):
            stop = done + len(part.vectors)
            part = replace(
                part,
                keys=[f"{name}/{row}" for row in range(done, stop)] if part.keys is None else part.keys,
                split=[one or split for one in part.split or [""] * len(part.vectors)],
                origin=[one or origin for one in part.origin or [""] * len(part.vectors)],
            )
            try:
                block = _compared(store, part, told, images)
                if schema != store.schema:  # with the first block, so that one that is refused leaves nothing
                    store.catalog.write(Record("schema", schema_header(schema)))
                fresh, late = _put(store, part, block, told, store.schema.indices(list(source.attributes)), images)
            except UsageError as error:
                raise RgunitError(f"{path}, rows {done} to {stop - 1}: {error}; {done} rows before are kept") from error
            added, attached, unlabelled, done = added + fresh, attached + late, unlabelled + part.unlabelled, stop
            if progress is not None:
                progress(done, source.rows)
    return Imported(told, done, added, attached, done - added - attached, unlabelled)


@dataclass(frozen=True)
class _Block:
    """A block beside what is there: its vectors, the id of each row (-1: none yet), and which of those lack theirs."""

    vectors: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]
    late: npt.NDArray[np.int64]


def _compared(store: IndexStore, part: Part, encoder: dict[str, Any], images: bool) -> _Block:
    """Compare a block with the store. Nothing is written; raises UsageError and RgunitError for what cannot come in,
    DuplicateKey for a key with another vector of this encoder."""
    name, fingerprint, keys = encoder["name"], encoder["fingerprint"], part.keys or []
    vectors = as_vectors(part.vectors, encoder["dim"])
    if part.labels is not None and not np.isin(part.labels, (-1, 0, 1)).all():
        raise UsageError("labels must be 1 (true), 0 (false) or -1 (unknown)")
    if strange := sorted(set(part.origin or ()) - set(ORIGINS)):
        raise UsageError(f"unknown origin {strange[0]!r}: there are {', '.join(ORIGINS)}")
    known = ids_at(store.catalog, keys) if images else ids_of(store.catalog, keys)
    if images and len(known) < len(set(keys)):
        lacking = next(key for key in keys if key not in known)
        raise RgunitError(f"{lacking!r} is no picture of the workspace: `rgunit add` it first, or leave --images out")
    ids = np.array([known.get(key, -1) for key in keys], np.int64)
    have = np.isin(ids, store.vector_ids(name, fingerprint)) & (ids >= 0)
    late = np.flatnonzero((ids >= 0) & ~have)
    wrong = np.zeros(len(keys), np.bool_)
    if have.any():
        held = store.vectors(ids[have], encoder=f"{name}@{fingerprint}")
        wrong[have] = (held != vectors[have]).any(axis=1)
    first: dict[str | int, int] = {}  # of each row that is meant, by its id or, where there is none yet, by its key
    alike = [
        first.setdefault(key if one < 0 else one, row)
        for row, (key, one) in enumerate(zip(keys, ids.tolist(), strict=True))
    ]
    wrong |= (vectors != vectors[alike]).any(axis=1)
    if wrong.any():
        raise DuplicateKey(
            f"key {keys[int(wrong.argmax())]!r} has another vector of encoder {name}: name another encoder, or take it "
            "out first"
        )
    return _Block(vectors, ids, late)


def _put(
    store: IndexStore,
    part: Part,
    block: _Block,
    encoder: dict[str, Any],
    columns: Sequence[int],
    images: bool,
) -> tuple[int, int]:
    """Write a block; return how many rows are new, and how many that were there got a vector."""
    name, fingerprint = encoder["name"], encoder["fingerprint"]
    attached, late = 0, block.late
    if len(late):
        attached = store.attach(block.ids[late], block.vectors[late], encoder=name, fingerprint=fingerprint)
    rows = np.flatnonzero(block.ids < 0)
    if images or not len(rows):
        return 0, attached
    labels = np.full((len(rows), len(store.schema)), -1, np.int8)
    if part.labels is not None:
        labels[:, columns] = part.labels[rows]
    keys, split, origin = part.keys or [], part.split or [], part.origin or []
    before = store.catalog.next_id()
    ids = store.add(
        block.vectors[rows],
        labels=labels,
        keys=[keys[row] for row in rows],
        encoder=name,
        fingerprint=fingerprint,
        split=[split[row] for row in rows],
        origin=[origin[row] for row in rows],
    )
    return int((ids >= before).sum()), attached

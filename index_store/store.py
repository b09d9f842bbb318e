"""`IndexStore`: vectors with labels and keys that are durable when `add` returns and found exactly.

The one idea: every change is one sealed record (`catalog.write`), every search looks at one committed `State`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store.attributes import ORIGINS, AttributeSchema, Filter
from index_store.catalog import Catalog, schema_header
from index_store.errors import DuplicateKey, RgunitError, UsageError
from index_store.features import Record
from index_store.index import exact_search
from index_store.maintenance import Report, rebuild, verify
from index_store.state import EncoderInfo, State, Table, current_sequence, load_state, resolve_encoder

__all__ = ["Found", "IndexStore", "Report"]

Where = str | None | Sequence[str | None]


@dataclass(frozen=True)
class Found:
    """Neighbours: ids int64 [q, k] (-1 where fewer match), squared L2 float32 [q, k] (inf), and what was done."""

    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float32]
    plan: str


class IndexStore:
    """A folder of vectors, labels and keys. A context manager; threads may share it; one process writes at a time."""

    def __init__(self, catalog: Catalog, *, owner: bool = True) -> None:
        self.catalog = catalog
        self._owner = owner
        self._state: State | None = None

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        dim: int,
        attributes: Sequence[str],
        groups: Sequence[Sequence[str]] = (),
        encoder: str = "default",
    ) -> IndexStore:
        """Make a store for vectors of `dim` numbers; FileExistsError if there is one already."""
        if dim < 1:
            raise UsageError(f"vectors need at least one dimension, not {dim}")
        schema = AttributeSchema(tuple(attributes), tuple(tuple(group) for group in groups))
        catalog = Catalog.create(Path(path))
        header = schema_header(schema) | {
            "encoder": {"name": encoder, "fingerprint": "", "dim": dim},
            "settings": {"encoder": encoder},
        }
        catalog.write(Record("schema", header))
        return cls(catalog)

    @classmethod
    def open(cls, path: Path | str, *, vectors: str | None = None, wait: float = 0.0) -> IndexStore:
        """Open a store; a change waits up to `wait` seconds for another writer. `vectors`: another engine's URL."""
        if vectors is not None:
            raise UsageError(f"no engine for {vectors!r} in this version: leave `vectors` out")
        return cls(Catalog.open(Path(path), wait))

    def close(self) -> None:
        """Let go of files and of the writer's lock."""
        self._state = None
        if self._owner:
            self.catalog.close()

    def __enter__(self) -> IndexStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def schema(self) -> AttributeSchema:
        """Attribute names and groups."""
        return self.state().schema

    def state(self) -> State:
        """Return the last committed state."""
        with self.catalog.guard:
            if self._state is None or self._state.sequence != current_sequence(self.catalog):
                self._state = load_state(self.catalog)
            return self._state

    # Changing

    def add(
        self,
        vectors: npt.ArrayLike,
        *,
        labels: npt.ArrayLike | None = None,
        keys: Sequence[str] | None = None,
        split: str | Sequence[str] | None = None,
        origin: str | Sequence[str] = "real",
        encoder: str | None = None,
    ) -> npt.NDArray[np.int64]:
        """Add vectors float32 [n, dim] with labels int8 [n, A] in {1, 0, -1} and return their ids int64 [n].

        Durable on return, all or nothing. A key that is there with the same data gives its id and changes nothing,
        with other data raises DuplicateKey. Labels not given are unknown. Raises UsageError for wrong shapes and
        values, Locked while another process writes.
        """
        self.catalog.begin()
        with self.catalog.guard:
            state = self.state()
            info = self._encoder_to_write(state, encoder, vectors)
            matrix = as_vectors(vectors, info.dim)
            count = len(matrix)
            given = np.full((count, len(state.schema)), -1, np.int8) if labels is None else np.asarray(labels)
            if len(given) != count:
                raise UsageError(f"{count} vectors but {len(given)} rows of labels")
            known, value = state.schema.pack(given)
            splits, origins = _column(split or "", count, "split"), _column(origin, count, "origin")
            for name in {origins} if isinstance(origins, str) else set(origins):
                if name not in ORIGINS:
                    raise UsageError(f"unknown origin {name!r}: there are {', '.join(ORIGINS)}")
            batch = _Batch(matrix, known, value, splits, origins)
            result = np.full(count, -1, np.int64)
            fresh = np.arange(count)
            if keys is not None:
                fresh = self._match_keys(state, info, batch, list(keys), result)
            result[fresh] = self.catalog.next_id() + np.arange(len(fresh))
            if keys is not None and len(fresh) < count:
                first = {key: int(result[row]) for row, key in enumerate(keys) if result[row] >= 0}
                result = np.array([first[key] for key in keys], np.int64)
            if len(fresh):
                every = len(fresh) == count
                arrays: dict[str, npt.NDArray[Any]] = {
                    "ids": result if every else result[fresh],
                    "known": known if every else known[fresh],
                    "value": value if every else value[fresh],
                    "vectors": matrix if every else matrix[fresh],
                }
                texts: dict[str, Any] = {
                    "split": splits if isinstance(splits, str) else [splits[row] for row in fresh],
                    "origin": origins if isinstance(origins, str) else [origins[row] for row in fresh],
                }
                if keys is not None:
                    texts["key"] = list(keys) if every else [keys[row] for row in fresh.tolist()]
                self.catalog.write(Record("images", self._header(state, info), arrays, texts))
            return result

    def remove(self, ids: npt.ArrayLike) -> int:
        """Remove rows by id and return how many there were; an id is never given again."""
        self.catalog.begin()
        with self.catalog.guard:
            gone = np.intersect1d(np.asarray(ids, np.int64).ravel(), self.state().ids)
            if len(gone):
                self.catalog.write(Record("remove", {}, {"ids": gone}))
            return len(gone)

    def attach(self, ids: npt.ArrayLike, vectors: npt.ArrayLike, *, encoder: str, fingerprint: str) -> int:
        """Attach vectors [n, d] to rows that are there; those with a vector of this fingerprint are skipped.

        Returns how many were new. Durable on return. RgunitError names ids that do not exist.
        """
        self.catalog.begin()
        with self.catalog.guard:
            state = self.state()
            wanted = np.asarray(ids, np.int64).ravel()
            info = _find(state, encoder, fingerprint)
            dim = info.dim if info else np.shape(np.asarray(vectors))[-1]
            info = info or EncoderInfo(0, encoder, fingerprint, int(dim))
            matrix = as_vectors(vectors, info.dim)
            if len(matrix) != len(wanted):
                raise UsageError(f"{len(wanted)} ids but {len(matrix)} vectors")
            strange = np.setdiff1d(wanted, state.ids)
            if len(strange):
                raise RgunitError(f"no image has id {int(strange[0])} ({len(strange)} such ids): register images first")
            there = state.table(info).ids if info.number else np.zeros(0, np.int64)
            _, first = np.unique(wanted, return_index=True)
            fresh = first[~np.isin(wanted[first], there)]
            if len(fresh):
                arrays: dict[str, npt.NDArray[Any]] = {"ids": wanted[fresh], "vectors": matrix[fresh]}
                self.catalog.write(Record("vectors", self._header(state, info), arrays))
            return len(fresh)

    # Asking

    def search(
        self,
        queries: npt.ArrayLike,
        *,
        k: int = 10,
        where: Where = None,
        exclude: npt.ArrayLike | Sequence[npt.ArrayLike] | None = None,
        encoder: str | None = None,
        exact: bool = False,
    ) -> Found:
        """Find the k nearest rows of queries [dim] or [q, dim] among those that pass `where`, less `exclude`.

        `where` is one filter or one a query; `exclude` ids for every query, or a list of one array a query.
        Never fewer than min(k, matches) results a query.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        state = self.state()
        info = resolve_encoder(state, encoder, self._default(state))
        matrix = as_vectors(np.atleast_2d(np.asarray(queries, np.float32)), info.dim)
        table = state.table(info)
        count = len(matrix)
        filters = _per_query_filters(state.schema, where, count)
        excluded = _per_query_ids(exclude, count)
        ids = np.full((count, k), -1, np.int64)
        distances = np.full((count, k), np.inf, np.float32)
        groups: dict[str, tuple[Filter, list[int]]] = {}
        for query, wanted in enumerate(filters):
            groups.setdefault(wanted.text, (wanted, []))[1].append(query)
        plans = []
        for wanted, members in groups.values():
            extra = max((len(excluded[query]) for query in members), default=0)
            found, gaps, plan = _scan(state, table, matrix[members], k + extra, wanted)
            plans.append(plan)
            for place, query in enumerate(members):
                keep = (found[place] >= 0) & ~np.isin(found[place], excluded[query])
                best = np.flatnonzero(keep)[:k]
                ids[query, : len(best)] = found[place, best]
                distances[query, : len(best)] = gaps[place, best]
        return Found(ids, distances, "; ".join(sorted(set(plans))))

    def count(self, where: str | None = None) -> int:
        """Count the rows that pass a filter."""
        state = self.state()
        return int(state.mask(state.schema.filter(where)).sum())

    def vectors(self, ids: npt.ArrayLike, *, encoder: str | None = None) -> npt.NDArray[np.float32]:
        """Return the vectors float32 [n, d] of ids in the order given; RgunitError names an id without one."""
        state = self.state()
        info = resolve_encoder(state, encoder, self._default(state))
        table = state.table(info)
        wanted = np.asarray(ids, np.int64).ravel()
        places = np.searchsorted(table.ids, wanted)
        there = places < len(table.ids)
        there[there] = table.ids[places[there]] == wanted[there]
        if not there.all():
            raise RgunitError(f"id {int(wanted[~there][0])} has no vector of encoder {info.name}")
        return np.asarray(table.vectors[places])

    def encoders(self) -> tuple[EncoderInfo, ...]:
        """Return the encoders whose vectors the store knows."""
        return self.state().encoders

    def verify(self) -> Report:
        """Check every file against its digest and the catalog against the log."""
        return verify(self.catalog)

    def rebuild(self) -> None:
        """Make derived files again, and the catalog from the shards where it is damaged."""
        rebuild(self.catalog)
        self._state = None

    # Inside

    def _default(self, state: State) -> str | None:
        """Return the encoder that the store was made with, if it was made for one."""
        with self.catalog.reading() as connection:
            return self.catalog.setting(connection, "encoder")

    def _encoder_to_write(self, state: State, encoder: str | None, vectors: npt.ArrayLike) -> EncoderInfo:
        """Return the encoder that vectors are added under; a new name is made with the dimension of its vectors."""
        if encoder is None or any(info.name == encoder for info in state.encoders):
            return resolve_encoder(state, encoder, self._default(state))
        return EncoderInfo(0, encoder, "", int(np.shape(np.asarray(vectors))[-1]))

    def _header(self, state: State, info: EncoderInfo) -> dict[str, Any]:
        """Return the header of a record with vectors."""
        encoder = {"name": info.name, "fingerprint": info.fingerprint, "dim": info.dim}
        return schema_header(state.schema) | {"encoder": encoder}

    def _match_keys(
        self, state: State, info: EncoderInfo, batch: _Batch, keys: list[str], result: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Fill in the ids of keys that are there with the same data; return the rows that are new."""
        if len(keys) != len(batch.vectors):
            raise UsageError(f"{len(batch.vectors)} vectors but {len(keys)} keys")
        seen: dict[str, int] = {}
        fresh = []
        for row, key in enumerate(keys):
            if not isinstance(key, str) or not key:
                raise UsageError(f"key {key!r} is not a text with at least one character")
            if (first := seen.setdefault(key, row)) == row:
                fresh.append(row)
            elif not batch.same(row, first):
                raise DuplicateKey(f"key {key!r} is twice in the batch with different data: give each row its own")
        there = self._ids_of(list(seen))
        if there:
            held = [seen[key] for key in there]
            stored = self._stored(state, info, np.array(list(there.values()), np.int64))
            for place, row in enumerate(held):
                if stored is None or not batch.equals(row, stored, place):
                    raise DuplicateKey(
                        f"key {keys[row]!r} is taken by other data: use another, or remove id {there[keys[row]]} first"
                    )
                result[row] = there[keys[row]]
        return np.array([row for row in fresh if result[row] < 0], np.int64)

    def _ids_of(self, keys: list[str]) -> dict[str, int]:
        """Return the ids of the keys that are in the store."""
        found: dict[str, int] = {}
        with self.catalog.reading() as connection:
            for start in range(0, len(keys), 30_000):
                part = keys[start : start + 30_000]
                marks = ", ".join("?" * len(part))
                rows = connection.exec_driver_sql(f"SELECT key, id FROM images WHERE key IN ({marks})", tuple(part))
                found.update((str(key), int(row)) for key, row in rows)
        return found

    def _stored(self, state: State, info: EncoderInfo, ids: npt.NDArray[np.int64]) -> _Batch | None:
        """Return what the store holds of some ids, None if one has no vector of this encoder."""
        table = state.table(info) if info.number else None
        if table is None or not np.isin(ids, table.ids).all():
            return None
        places = np.searchsorted(table.ids, ids)
        rows = table.rows[places]
        names = state.names
        return _Batch(
            np.asarray(table.vectors[places]),
            state.known[rows],
            state.value[rows],
            [names[code] for code in state.split[rows]],
            [names[code] for code in state.origin[rows]],
        )


@dataclass(frozen=True)
class _Batch:
    """The data of some rows, to be compared."""

    vectors: npt.NDArray[np.float32]
    known: npt.NDArray[np.uint8]
    value: npt.NDArray[np.uint8]
    split: str | Sequence[str]
    origin: str | Sequence[str]

    def key(self, row: int) -> tuple[bytes, bytes, bytes, str, str]:
        """Return all data of a row."""
        split = self.split if isinstance(self.split, str) else self.split[row]
        origin = self.origin if isinstance(self.origin, str) else self.origin[row]
        return self.vectors[row].tobytes(), self.known[row].tobytes(), self.value[row].tobytes(), split, origin

    def same(self, row: int, other: int) -> bool:
        """Whether two rows of the batch hold the same data."""
        return self.key(row) == self.key(other)

    def equals(self, row: int, stored: _Batch, other: int) -> bool:
        """Whether a row holds the same data as a stored one."""
        return self.key(row) == stored.key(other)


def as_vectors(vectors: npt.ArrayLike, dim: int) -> npt.NDArray[np.float32]:
    """Return contiguous float32 [n, dim]; UsageError for another shape or numbers that are not finite."""
    matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.size == 0 and matrix.ndim <= 2:
        return np.zeros((0, dim), np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dim:
        raise UsageError(f"vectors have shape {list(matrix.shape)}: needed is [n, {dim}]")
    if not np.isfinite(matrix.sum()) and not np.isfinite(matrix).all():
        raise UsageError("vectors must be finite: there is a NaN or an infinity among them")
    return matrix


def _column(value: str | Sequence[str], count: int, what: str) -> str | list[str]:
    """Return one text for all rows, or one a row."""
    if isinstance(value, str):
        return value
    column = [str(entry) for entry in value]
    if len(column) != count:
        raise UsageError(f"{count} vectors but {len(column)} entries of {what}")
    return column


def _find(state: State, name: str, fingerprint: str) -> EncoderInfo | None:
    """Return the encoder with this name and fingerprint, if the store knows it."""
    for info in state.encoders:
        if (info.name, info.fingerprint) == (name, fingerprint):
            return info
    return None


def _per_query_filters(schema: AttributeSchema, where: Where, count: int) -> list[Filter]:
    """Return one filter a query."""
    if where is None or isinstance(where, str):
        return [schema.filter(where)] * count
    if len(where) != count:
        raise UsageError(f"{count} queries but {len(where)} filters")
    parsed = {text: schema.filter(text) for text in set(where)}
    return [parsed[text] for text in where]


def _per_query_ids(exclude: Any, count: int) -> list[npt.NDArray[np.int64]]:
    """Return the ids to leave out, one array a query."""
    if exclude is None:
        return [np.zeros(0, np.int64)] * count
    if isinstance(exclude, np.ndarray) and exclude.dtype != object:
        if exclude.ndim == 2 and len(exclude) == count:
            return [np.unique(row.astype(np.int64)) for row in exclude]
        return [np.unique(exclude.astype(np.int64).ravel())] * count
    entries = list(exclude)
    if entries and all(np.ndim(entry) == 1 for entry in entries):
        if len(entries) != count:
            raise UsageError(f"{count} queries but {len(entries)} arrays of ids to leave out")
        return [np.unique(np.asarray(entry, np.int64)) for entry in entries]
    return [np.unique(np.asarray(entries, np.int64).ravel())] * count


def _scan(
    state: State, table: Table, queries: npt.NDArray[np.float32], k: int, wanted: Filter
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], str]:
    """Search the matching rows exactly; return ids [q, k], distances [q, k] and what was done."""
    total = len(table.ids)
    if wanted.everything:
        distances, rows = exact_search(queries, table.vectors, k)
        ids, plan = table.ids, f"exact scan of all {total} rows"
    else:
        keep = np.flatnonzero(state.mask(wanted)[table.rows])
        distances, rows = exact_search(queries, np.ascontiguousarray(table.vectors[keep]), k)
        ids, plan = table.ids[keep], f"exact scan of the {len(keep)} of {total} rows that match"
    padded = np.append(ids, np.int64(-1))
    return padded[rows], distances, plan

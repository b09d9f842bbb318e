"""`IndexStore`: vectors with labels and keys that are durable when `add` returns and found exactly.

The one idea: every change is one sealed record (`catalog.write`), every search looks at one committed `State`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store import ann, engines
from index_store.attributes import ORIGINS, AttributeSchema
from index_store.batch import Batch, as_ids, as_vectors, text_column
from index_store.catalog import Catalog
from index_store.device import BUDGET_MIB, Device, device_of
from index_store.errors import RgunitError, Unreachable, UsageError
from index_store.features import Record, ShardMissing, map_vectors, read
from index_store.known import match_keys
from index_store.live import Live
from index_store.maintenance import REBUILD, Report, compact, rebuild, verify
from index_store.queries import Exclude, Found, Where, answer, answer_fused
from index_store.replay import schema_header
from index_store.state import EncoderInfo, State, Table, find, resolve_encoder

__all__ = ["Found", "IndexStore", "Report"]


class IndexStore:
    """A folder of vectors, labels and keys. A context manager; threads may share it; one process writes at a time."""

    def __init__(self, catalog: Catalog, *, owner: bool = True, vectors: str | None = None) -> None:
        self.catalog = catalog
        self._owner = owner
        self._live = Live(catalog)
        self._engine = engines.engine(self._live, vectors, lambda: self.device)
        catalog.follow = self._engine.follow
        self._device: Device | None = None
        self._asked = "cpu", BUDGET_MIB

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        dim: int,
        attributes: Sequence[str],
        groups: Sequence[Sequence[str]] = (),
        encoder: str = "default",
        catalog: str | None = None,
        vectors: str | None = None,
    ) -> IndexStore:
        """Make a store for vectors of `dim` numbers; FileExistsError if there is one already.

        `catalog`: a database to keep the catalog in, `postgresql+psycopg://USER@HOST/DATABASE` (default: what
        RGUNIT_CATALOG says, else a SQLite file in the folder). `vectors`: a Milvus server to search on,
        `milvus+http://HOST:19530/NAME` (default: what RGUNIT_VECTORS says, else "files": the sealed files).
        """
        if dim < 1:
            raise UsageError(f"vectors need at least one dimension, not {dim}")
        if not encoder or isinstance(attributes, str):
            raise UsageError("an encoder needs a name" if not encoder else "attributes must be a list of names")
        schema = AttributeSchema(tuple(attributes), tuple(tuple(group) for group in groups))
        engines.reach(vectors)
        made = Catalog.create(Path(path), unfinished_ok=True, url=catalog)
        header = schema_header(schema) | {
            "encoder": {"name": encoder, "fingerprint": "", "dim": dim},
            "settings": {"encoder": encoder},
        }
        store = cls(made, vectors=vectors)
        made.write(Record("schema", header))
        return store

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        vectors: str | None = None,
        wait: float = 0.0,
        catalog: str | None = None,
        device: str = "cpu",
        device_mib: int = BUDGET_MIB,
    ) -> IndexStore:
        """Open a store; a change waits up to `wait` seconds for another writer.

        `catalog` and `vectors`: where its catalog is, and where its vectors are searched, if not in the folder; see
        `create`. A store that was searched in its files goes to Milvus with its next change or `rebuild`. `device`:
        cpu, cuda, cuda:N or auto: where exact searches and the k-means of `rebuild` are made when that is faster; at
        most `device_mib` MiB of vectors are kept on it. RgunitError where FAISS finds no such GPU.
        """
        engines.chosen(vectors, Path(path))  # refused before anything is opened
        found = device_of(device, device_mib) if device not in ("cpu", "auto") else None
        store = cls(Catalog.open(Path(path), wait, catalog), vectors=vectors)
        store.use(device, device_mib)
        store._device = found
        return store

    def use(self, device: str, device_mib: int = BUDGET_MIB) -> None:
        """From now on compute on a device, which is looked for when it is first needed; see `open`."""
        self._asked, self._device = (device, device_mib), None

    @property
    def device(self) -> Device | None:
        """What computes beside the CPU, if anything."""
        if self._device is None and self._asked[0] != "cpu":
            self._device = device_of(*self._asked)
            self._asked = self._asked if self._device else ("cpu", self._asked[1])
        return self._device

    def close(self) -> None:
        """Close files and release the writer's lock."""
        self._live.forget()
        self._engine.close()
        if self._device is not None:
            self._device.forget()
        if self._owner:
            self.catalog.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is opened again where it arrives, by its absolute place."""
        device, mib = self._asked
        place, wait = str(self.catalog.folder), self.catalog.lock.wait
        where = {"catalog": self.catalog.url, "vectors": self.vectors_url}
        return partial(IndexStore.open, place, wait=wait, device=device, device_mib=mib, **where), ()

    def __enter__(self) -> IndexStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def vectors_url(self) -> str | None:
        """The server that vectors are searched on, None for the sealed files."""
        return self._engine.url

    @property
    def schema(self) -> AttributeSchema:
        """Attribute names and groups."""
        return self.state().schema

    def state(self) -> State:
        """Return the last committed state."""
        return self._live.state()

    def snapshot(self, encoder: str | None = None) -> tuple[State, Table]:
        """Return the last committed state with the vectors of an encoder."""
        state, (table,) = self._live.snapshot(encoder)
        return state, table

    def cells(self, table: Table) -> list[ann.Cells | None]:
        """Return the approximate index of each segment of a table, None for one without."""
        return self._live.cells(table)

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
        fingerprint: str = "",
    ) -> npt.NDArray[np.int64]:
        """Add vectors float32 [n, dim] with labels int8 [n, A] in {1, 0, -1} and return their ids int64 [n].

        Durable on return, all or nothing. A key that is there with the same data gives its id and changes nothing,
        with other data raises DuplicateKey. Labels not given are unknown. An `encoder` that is new is made, of the
        dimension of its vectors; `fingerprint` tells its weights. Raises UsageError for wrong shapes and values, Locked
        while another process writes.
        """
        with self.catalog.writing():
            state = self.state()
            info = self._encoder_to_write(state, encoder, fingerprint, vectors)
            matrix = as_vectors(vectors, info.dim)
            count = len(matrix)
            given = np.full((count, len(state.schema)), -1, np.int8) if labels is None else np.asarray(labels)
            if given.ndim != 2 or len(given) != count:
                raise UsageError(f"{count} vectors but labels of shape {list(given.shape)}: each vector needs one row")
            known, value = state.schema.pack(given)
            splits, origins = text_column(split or "", count, "split"), text_column(origin, count, "origin")
            for name in {origins} if isinstance(origins, str) else set(origins):
                if name not in ORIGINS:
                    raise UsageError(f"unknown origin {name!r}: there are {', '.join(ORIGINS)}")
            batch = Batch(matrix, known, value, splits, origins)
            result = np.full(count, -1, np.int64)
            fresh = np.arange(count)
            if isinstance(keys, str):
                raise UsageError("keys must be a list of texts, not one text")
            if keys is not None:
                fresh = match_keys(self._live, state, info, batch, list(keys), result)
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
        with self.catalog.writing():
            gone = np.intersect1d(as_ids(ids), self.state().ids)
            if len(gone):
                self.catalog.write(Record("remove", {}, {"ids": gone}))
            return len(gone)

    def attach(self, ids: npt.ArrayLike, vectors: npt.ArrayLike, *, encoder: str, fingerprint: str) -> int:
        """Attach vectors [n, d] to rows that are there; those with a vector of this fingerprint are skipped.

        Returns how many were new. Durable on return. RgunitError names ids that do not exist.
        """
        with self.catalog.writing():
            state = self.state()
            wanted = as_ids(ids)
            info = _known_encoder(state, encoder, fingerprint)
            dim = info.dim if info else _width(vectors)
            info = info or EncoderInfo(0, encoder, fingerprint, dim)
            matrix = as_vectors(vectors, info.dim)
            if len(matrix) != len(wanted):
                raise UsageError(f"{len(wanted)} ids but {len(matrix)} vectors")
            strange = np.setdiff1d(wanted, state.ids)
            if len(strange):
                raise RgunitError(f"no image has id {int(strange[0])} ({len(strange)} such ids): register images first")
            there = self._live.ids(state, info)
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
        exclude: Exclude = None,
        encoder: str | None = None,
        exact: bool = False,
    ) -> Found:
        """Find the k nearest rows of queries [dim] or [q, dim] among those that pass `where`, less `exclude`.

        `where` is one filter or one for each query; `exclude` ids for all queries, or a list with an array for each.
        Never fewer than min(k, matches) results a query.
        """
        return answer(self._engine, queries, k, where, exclude, encoder, exact)

    def search_fused(
        self,
        queries: Mapping[str, npt.ArrayLike],
        weights: Mapping[str, float],
        *,
        k: int = 10,
        where: Where = None,
        exclude: Exclude = None,
    ) -> Found:
        """Find the k nearest rows by a weighted sum of named vectors' squared distances, exactly.

        `queries` gives each encoder's vectors [q, dim] by its name, `weights` a number >= 0 for each; only rows that
        have a vector of every one of them are looked at.
        """
        return answer_fused(self._live, queries, weights, k, where, exclude)

    def count(self, where: str | None = None) -> int:
        """Count the rows that pass a filter."""
        state = self.state()
        return int(state.mask(state.schema.filter(where)).sum())

    def vectors(self, ids: npt.ArrayLike, *, encoder: str | None = None) -> npt.NDArray[np.float32]:
        """Return the vectors float32 [n, d] of ids in the order given; RgunitError names an id without one."""
        _, (table,) = self._live.snapshot(encoder)
        wanted = as_ids(ids)
        places = table.places(wanted)
        if (places < 0).any():
            raise RgunitError(f"id {int(wanted[places < 0][0])} has no vector of encoder {table.info.name}")
        return table.gather(places)

    def vector_ids(self, encoder: str, fingerprint: str) -> npt.NDArray[np.int64]:
        """Return the ids that have a vector of an encoder; reads no vectors."""
        for _ in range(20):
            state = self.state()
            info = _known_encoder(state, encoder, fingerprint)
            try:
                ids = self._live.ids(state, info) if info else np.zeros(0, np.int64)
                return ids[find(state.ids, ids) >= 0]
            except ShardMissing:  # merged by a compaction after the state was read
                continue
        raise RgunitError(
            f"{self.catalog.folder} is being compacted again and again: try again when its writer has finished"
        )

    def blocks(
        self, encoder: str, fingerprint: str, rows: int = 8192
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yield ids [m] and vectors float32 [m, d] of an encoder, m <= rows, from the files; keeps none in memory."""
        state = self.state()
        info = _known_encoder(state, encoder, fingerprint)
        for number, file, _ in state.shards if info else ():
            if info and number == info.number:
                path = self.catalog.shard(file)
                ids, vectors = read(path, only=("ids",)).arrays["ids"], map_vectors(path)
                for start in range(0, len(ids), rows):
                    there = find(state.ids, ids[start : start + rows]) >= 0
                    yield ids[start : start + rows][there], vectors[start : start + rows][there]

    def encoders(self) -> tuple[EncoderInfo, ...]:
        """Return the encoders whose vectors the store knows."""
        return self.state().encoders

    def verify(self) -> Report:
        """Check every file against its digest, the catalog against the log, and what Milvus holds against both."""
        report = verify(self.catalog)
        try:
            problems = self._engine.problems() if report.ok else []
        except Unreachable as error:
            return Report(False, [str(error)])  # it says itself what to do
        return Report(False, problems, REBUILD) if problems else report

    def rebuild(self) -> list[str]:
        """Repair what is damaged, and remake the derived indexes of large shards; return a line on each."""
        _ = self.device  # one that is not there is refused before any work
        with self.catalog.held(repair=False):
            told = rebuild(self.catalog)
            self._live.forget()
            self._engine.forget()
            return told + self._engine.remake()

    def compact(self, *, check: bool = True) -> list[str]:
        """Merge all shards into one for each encoder, without removed rows: many small adds become one file.

        Derived indexes are made again if there were some; returns a line on what was done. RgunitError where `verify`
        finds problems: `rebuild` repairs them first. (`check=False`: it was asked just now.)
        """
        derived = self._engine.derived
        with self.catalog.held():
            told = [compact(self.catalog, check=check)]
            return told + self._engine.remake() if derived else told

    # Inside

    def _encoder_to_write(
        self, state: State, encoder: str | None, fingerprint: str, vectors: npt.ArrayLike
    ) -> EncoderInfo:
        """Return the encoder that vectors are added under; a new one is made with the dimension of its vectors."""
        if encoder is None or (not fingerprint and any(info.name == encoder for info in state.encoders)):
            return resolve_encoder(state, encoder)
        known = _known_encoder(state, encoder, fingerprint)
        return known or EncoderInfo(0, encoder, fingerprint, _width(vectors))

    def _header(self, state: State, info: EncoderInfo) -> dict[str, Any]:
        """Return the header of a record with vectors."""
        encoder = {"name": info.name, "fingerprint": info.fingerprint, "dim": info.dim}
        return schema_header(state.schema) | {"encoder": encoder}


def _width(vectors: npt.ArrayLike) -> int:
    """Return the dimension of vectors [n, d] of an encoder that is not known yet."""
    shape = np.shape(vectors)
    if len(shape) != 2 or not shape[1]:
        raise UsageError(f"vectors of a new encoder have shape {list(shape)}, not [n, d] with d at least 1")
    return int(shape[1])


def _known_encoder(state: State, name: str, fingerprint: str) -> EncoderInfo | None:
    """Return the encoder with this name and fingerprint, if the store knows it."""
    for info in state.encoders:
        if (info.name, info.fingerprint) == (name, fingerprint):
            return info
    return None

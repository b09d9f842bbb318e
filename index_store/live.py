"""The newest state of an open store, the vectors that searches have asked for, and the cells of large shards.

The one idea: whatever was read stays until a commit of any process makes it old, and then only what is new is read.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from index_store import features, forking
from index_store.ann import Cells, load_cells
from index_store.catalog import Catalog
from index_store.errors import RgunitError, damage_named
from index_store.state import (
    BIG_SEGMENT,
    EncoderInfo,
    Ids,
    Segment,
    State,
    Table,
    Vectors,
    find,
    read_state,
    resolve_encoder,
)


class Live:
    """The states of an open store: the newest one, and the tables of vectors that searches have asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.guard = threading.RLock()
        forking.remember(self)
        self._state: State | None = None
        self._version: tuple[int, ...] = ()
        self._tables: dict[int, tuple[int, Table]] = {}
        self._cells: dict[str, Cells | None] = {}
        self._snapshots: dict[tuple[str | None, ...], tuple[State, list[Table]]] = {}
        self._ids: dict[str, Ids] = {}

    def after_fork(self) -> None:
        """In a forked child: a lock that no thread of the parent holds. What was read stays true."""
        self.guard = threading.RLock()

    def forget(self) -> None:
        """Drop everything that was read."""
        with self.guard:
            self._state = None
            self._snapshots.clear()
            self._tables.clear()
            self._cells.clear()
            self._ids.clear()

    def state(self) -> State:
        """Return the last committed state."""
        with self.guard:
            version = self.catalog.version()
            if self._state is None or version != self._version:
                with self.catalog.reading() as connection, damage_named(self.catalog.file):
                    if self._state is None or self._state.sequence != self.catalog.sequence(connection):
                        self._state = read_state(self.catalog, connection, self._state)
                self._version = version
            return self._state

    def snapshot(self, *encoders: str | None) -> tuple[State, list[Table]]:
        """Return the last committed state with the vectors of some encoders (by name, None: the only one)."""
        for _ in range(20):
            with self.guard:
                state = self.state()
                held = self._snapshots.get(encoders)
            if held and held[0] is state:
                return held
            try:
                found = state, [self.table(state, resolve_encoder(state, name)) for name in encoders]
                self._snapshots[encoders] = found
                return found
            except features.ShardMissing:  # merged by a compaction after the state was read
                if self.state() is state:
                    raise
        raise RgunitError(
            f"{self.catalog.folder} is being compacted again and again: try again when its writer has finished"
        )

    def table(self, state: State, info: EncoderInfo) -> Table:
        """Return the vectors of an encoder in a state."""
        with self.guard:
            held = self._tables.get(info.number)
            if held and held[0] == state.sequence:
                return held[1]
            if not info.number:
                return Table(info, (), np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
            table = self._load(state, info, held[1] if held else None)
            self._tables[info.number] = (state.sequence, table)
            return table

    def ids(self, state: State, info: EncoderInfo) -> Ids:
        """Return the ids of an encoder's vectors, also of removed images, in the log's order; reads no vectors."""
        with self.guard:
            files = [file for number, file, _ in state.shards if number == info.number]
            for file in files:
                if file not in self._ids:
                    self._ids[file] = features.read(self.catalog.shard(file), only=("ids",)).arrays["ids"]
            return np.concatenate([self._ids[file] for file in files]) if files else np.zeros(0, np.int64)

    def _load(self, state: State, info: EncoderInfo, before: Table | None) -> Table:
        """Read what is new of an encoder's shards."""
        files = [file for number, file, _ in state.shards if number == info.number]
        rows = {file: count for _, file, count in state.shards}
        segments = list(before.segments) if before else []
        read = [file for segment in segments for file in segment.files]
        if read != files[: len(read)]:  # a compaction has replaced shards
            segments, read = [], []
        small: list[tuple[str, Ids, Vectors]] = []
        for file in files[len(read) :]:
            path = self.catalog.shard(file)
            ids, vectors = features.read(path, vectors=False).arrays["ids"], features.map_vectors(path)
            if rows[file] >= BIG_SEGMENT:
                segments, small = _grow(segments, small), []
                segments.append(Segment((file,), ids, vectors, mapped=True))
            else:
                small.append((file, ids, vectors))
        segments = _grow(segments, small)
        ids = np.concatenate([segment.ids for segment in segments]) if segments else np.zeros(0, np.int64)
        places = find(state.ids, ids)
        if np.array_equal(ids, state.ids):  # every image has a vector, in the order of ids: one array for all
            ids = state.ids
        stops = np.cumsum([len(segment.ids) for segment in segments])
        shared = [replace(one, ids=ids[end - len(one.ids) : end]) for one, end in zip(segments, stops, strict=True)]
        return Table(info, tuple(shared), ids, places, int((places >= 0).sum()))

    def cells(self, table: Table) -> list[Cells | None]:
        """Return the cells of each segment, None for one without."""
        found: list[Cells | None] = []
        for segment in table.segments:
            if not segment.mapped:
                found.append(None)
                continue
            file = segment.files[0]
            with self.guard:
                if file not in self._cells:
                    self._cells[file] = load_cells(self.catalog.folder, file, segment.vectors.shape)
                found.append(self._cells[file])
        return found

    def forget_cells(self) -> None:
        """Read the cells again when they are asked for."""
        with self.guard:
            self._cells.clear()


def _grow(segments: list[Segment], small: list[tuple[str, Ids, Vectors]]) -> list[Segment]:
    """Append small shards to the last segment if that is one in memory with room, else to a new one."""
    if not small:
        return segments
    files = tuple(file for file, _, _ in small)
    ids = np.concatenate([part[1] for part in small])
    count = len(ids)
    last = segments[-1] if segments and not segments[-1].mapped else None
    held = len(last.ids) if last else 0
    buffer: Vectors | None = last.vectors.base if last else None
    if buffer is None or len(buffer) < held + count:
        buffer = np.empty((max(2 * (held + count), 256), small[0][2].shape[1]), np.float32)
        if last:
            buffer[:held] = last.vectors
    start = held
    for _, part, vectors in small:  # readers of the older segment see only its first `held` rows
        buffer[start : start + len(part)] = vectors
        start += len(part)
    if last:
        files, ids = last.files + files, np.concatenate([last.ids, ids])
        segments = segments[:-1]
    return [*segments, Segment(files, ids, buffer[: held + count], mapped=False)]

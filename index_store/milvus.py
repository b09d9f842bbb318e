"""The engine on a Milvus server: collections that are derived from the sealed files, and searches of them.

The one idea: a commit is in the catalog first. One row on the server, the mark, says which commit the collections have,
and is moved last; so they are never ahead, and a reader whose catalog says more looks into the sealed files until they
have caught up. The next change brings them there whatever was killed when (`follow`), from what the catalog says has
changed since the mark; where that cannot be told, they are filled anew under other names, which the mark then names.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np

from index_store import features, forking
from index_store.attributes import AttributeSchema
from index_store.engines import Moved, View
from index_store.errors import RgunitError, Unreachable
from index_store.index import SPARE, Ids, Vectors
from index_store.live import Live
from index_store.local import Local
from index_store.milvusheld import MANY_IDS, SAMPLE, Collections
from index_store.milvusmark import Commit, Held, Mark
from index_store.milvusrows import Fields, Group, Layout, grouped
from index_store.milvusserver import INDEXES, Gone, Server
from index_store.state import EncoderInfo, State, Table, bare_state, resolve_encoder

DEFAULT_INDEX = "HNSW"
MOST_FOUND = 16_384  # results of a query that Milvus allows


@dataclass(frozen=True)
class MilvusView:
    """See `engines.View`. `held` is None where no row has such a vector."""

    engine: Milvus
    commit: Commit
    mark: Mark
    info: EncoderInfo
    field: str
    held: Held | None

    @property
    def schema(self) -> AttributeSchema:
        return self.commit.state.schema

    @property
    def dim(self) -> int:
        return self.info.dim

    def nearest(
        self, where: str | None, queries: Vectors, k: int, exact: bool, without: Ids | None = None
    ) -> tuple[Vectors, Ids, str]:
        index, files = self.mark.index, self.engine.files(self.info)
        wanted = self.schema.filter(where)
        ids = max(len(wanted.ids or ()), 0 if without is None else len(without))
        if k + SPARE > MOST_FOUND or ids > MANY_IDS:
            why = f"Milvus finds at most {MOST_FOUND} and is told at most {MANY_IDS} ids"
            return Sealed(files, why).nearest(where, queries, k, exact, without)
        if exact and INDEXES[index]:
            return Sealed(files, f"{index} is not exact").nearest(where, queries, k, exact, without)
        gaps, found = np.full((len(queries), k), np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        if self.held is not None and len(queries):
            terms = [self.mark.layout.expression(self.schema, wanted, self.field, self.held.fields)]
            if without is not None and len(without):
                terms.append(f"id not in [{', '.join(map(str, without.tolist()))}]")
            expression = " and ".join(filter(None, terms))
            try:
                gaps, found = self.engine.held.search(self.held, index, self.field, expression, queries, k)
            except Gone as error:  # filled anew under another name
                self.engine.forget()
                raise Moved(str(error)) from error
        depth = f" {INDEXES[index]} {self.held.depth}" if self.held and INDEXES[index] else ""
        told = f"Milvus {index}{depth}: {'all rows' if wanted.everything else 'the rows that match'}"
        short = np.flatnonzero(found[:, -1] < 0) if INDEXES[index] else np.zeros(0, np.int64)
        if len(short):  # an approximate index may have missed what matches
            again = np.ascontiguousarray(queries[short])
            gaps[short], found[short], plan = files().nearest(where, again, k, True, without)
            told += f"; {len(short)} of {len(queries)} queries again by {plan}: fewer than {k} found"
        if self.engine.live.catalog.version() != self.commit.version:
            raise Moved("somebody has committed meanwhile")
        return gaps, found, told


class Sealed:
    """A view of the sealed files where Milvus is not asked, and why it is not."""

    def __init__(self, files: Files, why: str) -> None:
        self._view, self._why = files(), why

    @property
    def schema(self) -> AttributeSchema:
        return self._view.schema

    @property
    def dim(self) -> int:
        return self._view.dim

    def nearest(
        self, where: str | None, queries: Vectors, k: int, exact: bool, without: Ids | None = None
    ) -> tuple[Vectors, Ids, str]:
        gaps, found, plan = self._view.nearest(where, queries, k, exact, without)
        return gaps, found, f"sealed files, for {self._why}: {plan}"


class Files:
    """Opens the vectors of an encoder in the sealed files."""

    def __init__(self, local: Local, info: EncoderInfo) -> None:
        self._local, self._name = local, f"{info.name}@{info.fingerprint}" if info.fingerprint else info.name

    def __call__(self) -> View:
        return self._local.view(self._name)


class Milvus:
    """See `engines.Engine`."""

    derived = False

    def __init__(self, live: Live, url: str, local: Local) -> None:
        self.live, self.url, self.local = live, url, local
        self.server = Server(url)
        self.held = Collections(self.server, live.catalog.folder)
        self._mark: Mark | None = None
        self._commit: Commit | None = None
        forking.remember(self)
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: locks that no thread of the parent holds. The first is held for moments, so that threads
        search while another one fills collections under the second."""
        self._guard, self._filling = threading.RLock(), threading.RLock()

    def forget(self) -> None:
        with self._guard:
            self._mark, self._commit = None, None
            self.held.forget()
        self.local.forget()

    def close(self) -> None:
        self.server.close()

    # Searching

    def view(self, encoder: str | None) -> View:
        commit = self._last()
        info = resolve_encoder(commit.state, encoder)
        mark = self._current(commit)
        if mark is None or not mark.has(commit):
            why = "Milvus has nothing of them yet" if mark is None else "Milvus has not all of the last changes"
            return Sealed(self.files(info), f"{why} (`rgunit index rebuild` brings them there)")
        ((group, fields),) = grouped([info]).items()
        (field,) = fields
        held = mark.held.get(group)
        held = held if held is not None and field in held.fields else None
        if held is not None:
            try:
                self.held.check(held)
            except Gone as error:
                self.forget()
                raise Moved(str(error)) from error
        return MilvusView(self, commit, mark, info, field, held)

    def sealed(self, encoder: str | None) -> View:
        return self.local.view(encoder)

    def files(self, info: EncoderInfo) -> Files:
        """What opens the vectors of an encoder in the sealed files."""
        return Files(self.local, info)

    def _last(self) -> Commit:
        """Return the last commit; reads no rows."""
        catalog = self.live.catalog
        with self._guard:
            version = catalog.version()
            if self._commit is None or self._commit.version != version:
                with catalog.reading() as connection:
                    state = bare_state(catalog, connection)
                    query = "SELECT digest FROM shards WHERE seq = ?"
                    digest = connection.exec_driver_sql(query, (state.sequence,)).scalar()
                    first = connection.exec_driver_sql("SELECT min(seq) FROM shards").scalar()
                self._commit = Commit(state, int(first or 0), str(digest or ""), version)
            return self._commit

    def _current(self, commit: Commit) -> Mark | None:
        """Return the mark, read anew where it is not that of the commit."""
        mark = self._mark
        if mark is None or not mark.has(commit):
            mark = self._mark = self.held.read_mark()
        return mark

    # Following

    def follow(self) -> None:
        with self._filling:
            commit = self._last()
            mark = self._current(commit)
            if not commit.state.sequence or (mark is not None and mark.has(commit)):  # 0: the store is being made
                return
            if mark is not None and self._continues(mark, commit):
                self._advance(mark, commit)
            else:
                self._fill(commit)

    def _continues(self, mark: Mark, commit: Commit) -> bool:
        """Whether what has changed since the mark can be told: its commit is one of this log, or just before a
        compaction, which changes no row."""
        if mark.sequence > commit.state.sequence or (mark.held and not mark.layout.fits(commit.state.schema)):
            return False
        if mark.sequence == commit.first - 1:
            return True
        with self.live.catalog.reading() as connection:
            query = "SELECT digest FROM shards WHERE seq = ?"
            return connection.exec_driver_sql(query, (mark.sequence,)).scalar() == mark.digest

    def _advance(self, mark: Mark, commit: Commit) -> None:
        """Bring the collections from the mark to the commit: doing it again does no harm."""
        since = (mark.sequence,)
        with self.live.catalog.reading() as connection:
            gone = connection.exec_driver_sql("SELECT id FROM removed WHERE changed > ?", since).scalars().all()
            changed = connection.exec_driver_sql("SELECT id FROM images WHERE changed > ?", since).scalars().all()
            query = "SELECT encoder, file FROM shards WHERE seq > ? AND encoder IS NOT NULL ORDER BY seq"
            files = connection.exec_driver_sql(query, since).all()
        fresh: dict[int, list[Ids]] = {}
        for encoder, file in files:
            record = features.read(self.live.catalog.shard(file), only=("ids",))
            if "base" not in record.header:
                fresh.setdefault(int(encoder), []).append(record.arrays["ids"])
        state, before = self.live.state(), mark.held
        layout = mark.layout if before else Layout.of(state.schema)
        held: dict[Group, Held] = {}
        for group, fields in grouped(_filled(state)).items():
            if group not in before or set(before[group].fields) != set(fields):
                held[group] = self._made(layout, mark.index, state, fields)
                continue
            held[group] = before[group]
            new = [part for info in fields.values() for part in fresh.get(info.number, ())]
            touched = np.unique(np.concatenate([np.array(changed, np.int64), *new]))
            self.held.put(held[group], layout, state, self._tables(state, fields), touched, fresh=False)
            self.live.catalog.step("sent")
            self.held.delete(held[group], gone)
        moved = self._move(replace(mark, sequence=state.sequence, digest=commit.digest, layout=layout, held=held))
        if any(before.get(group) is not one for group, one in held.items()):
            self.held.drop_others(moved)

    def _fill(self, commit: Commit) -> Mark:
        """Make all collections anew."""
        state, store = self.live.state(), self.held.begin()
        layout = Layout.of(state.schema)
        index = self.server.index or (self._mark.index if self._mark else DEFAULT_INDEX)
        groups = grouped(_filled(state))
        held = {group: self._made(layout, index, state, fields) for group, fields in groups.items()}
        for group, one in held.items():
            self.held.settle(one)
            held[group] = self._measured(one, index)
        mark = self._move(Mark(store, state.sequence, commit.digest, layout, index, held))
        self.held.drop_others(mark)
        return mark

    def _made(self, layout: Layout, index: str, state: State, fields: Fields) -> Held:
        """Make and fill a collection."""
        tables = self._tables(state, fields)
        held = self.held.make(layout, index, fields, max(table.alive for table in tables.values()))
        self.held.put(held, layout, state, tables, state.ids, fresh=True)
        return held

    def _tables(self, state: State, fields: Fields) -> dict[str, Table]:
        """The sealed vectors of each field."""
        numbers = {(info.name, info.fingerprint): info for info in state.encoders}
        return {name: self.live.table(state, numbers[info.name, info.fingerprint]) for name, info in fields.items()}

    def _move(self, mark: Mark) -> Mark:
        """Move the mark; return it."""
        self.live.catalog.step("mark")
        self.held.write_mark(mark)
        self._mark = mark
        return mark

    # Checking and mending

    def problems(self) -> list[str]:
        try:
            with self._filling:
                commit, self._mark = self._last(), None
                mark = self._current(commit)
                if mark is None:
                    return [f"{self.held.shown}: has no vectors of {self.live.catalog.folder.name} yet"]
                if not mark.has(commit):
                    return [f"{self.held.shown}: is at change {mark.sequence}, the catalog at {commit.state.sequence}"]
                state, told = self.live.state(), []
                for group, fields in grouped(_filled(state)).items():
                    held, names = mark.held.get(group), ", ".join(info.name for info in fields.values())
                    if held is None or set(held.fields) != set(fields):
                        told.append(f"{self.held.shown}: has no vectors of {names}")
                    else:
                        told += self.held.differences(held, mark.layout, state, self._tables(state, fields))
                return told
        except Unreachable:
            raise
        except RgunitError as error:
            return [str(error)]

    def remake(self) -> list[str]:
        with self._filling:
            if self.held.known():
                self.follow()
            mark, commit = self._mark, self._last()
            for held in mark.held.values() if mark is not None else ():
                self.server.call("flush", held.name)
            if mark is None or not self._as_wanted(mark, commit) or self.problems():
                mark = self._fill(commit)
            told = []
            for held in mark.held.values():
                names, depth = ", ".join(info.name for info in held.fields.values()), INDEXES[mark.index]
                how = (
                    f"{mark.index}, {depth} {held.depth}: {held.recall:.3f} of the nearest 10"
                    if held.recall
                    else mark.index
                )
                told.append(f"{held.name} on {self.server.shown}: {self._rows(held)} rows of {names}, {how}")
            return told

    def _as_wanted(self, mark: Mark, commit: Commit) -> bool:
        """Whether collections made now would be of the same form."""
        if self.server.index not in ("", mark.index) or Layout.of(commit.state.schema).domains != mark.layout.domains:
            return False
        if not INDEXES[mark.index]:
            return True
        return all(held.recall and self._rows(held) < 2 * held.rows for held in mark.held.values())

    def _rows(self, held: Held) -> int:
        """How many rows a collection has."""
        return max(table.alive for table in self._tables(self.live.state(), held.fields).values())

    def _measured(self, held: Held, index: str) -> Held:
        """Return a collection with the depth that its index needs, by its first field."""
        name, table = next(iter(self._tables(self.live.state(), held.fields).items()))
        alive = np.flatnonzero(table.rows >= 0)
        if not INDEXES[index] or len(alive) < SAMPLE:
            return held
        queries = table.gather(np.sort(np.random.default_rng(0).choice(alive, SAMPLE, replace=False)))
        truth = self.files(table.info)().nearest(None, queries, 11, True)[1]
        return self.held.measured(held, index, name, queries, truth)


def _filled(state: State) -> list[EncoderInfo]:
    """The encoders that have vectors."""
    numbers = {number for number, _, rows in state.shards if rows}
    return [info for info in state.encoders if info.number in numbers]

"""A store's collections on a Milvus server: making, filling, searching and comparing one, and the mark.

The one idea: nothing here decides what is sent when; that is `milvus.py`. Whatever is sent can be sent again.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from index_store import marker
from index_store.errors import CatalogDamaged, RgunitError
from index_store.index import SPARE, Ids, Vectors, rerank
from index_store.milvusmark import Held, Mark, cells_for
from index_store.milvusrows import Fields, Layout, entities
from index_store.milvusserver import INDEXES, LONGEST, Field, Gone, Server
from index_store.state import State, Table, find

BLOCK_BYTES = 8 * 2**20  # of vectors sent in one call
MANY_IDS = 4096  # rows sent, or ids named, in one call
REPLY_NUMBERS = 2**22  # of vectors in an answer
DEPTHS = (16, 32, 64, 128, 256, 512)
WANTED_RECALL = 0.998
PAUSE = 0.5  # seconds between looks at an index that is being built
SAMPLE = 64  # rows asked for when recall is measured

Tables = Mapping[str, Table]


class Collections:
    """What a store has on a server. The folder keeps the store's name (`vectors.json`), which the mark has too."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self._checked: set[str] = set()

    @property
    def store(self) -> str | None:
        """The store's name, None if it has none yet or its folder is a copy."""
        told, own = marker.read(self.folder, marker.VECTORS)
        return told if own else None

    def known(self) -> bool:
        """Whether the store has a name; a damaged `vectors.json` is taken away."""
        try:
            return self.store is not None
        except CatalogDamaged as error:
            error.file.unlink()
            return False

    @property
    def name(self) -> str:
        """The name of the collection with the mark, with which the others' begin."""
        return self.server.name or marker.read(self.folder, marker.VECTORS)[0] or ""

    @property
    def shown(self) -> str:
        """Them in a message."""
        return f"{self.server.name or 'the collections'} on {self.server.shown}"

    def forget(self) -> None:
        """Look at collections again."""
        self._checked.clear()

    # The mark

    def read_mark(self) -> Mark | None:
        """Return the mark, None if there is none. RgunitError where it is another store's, or none of rgunit's."""
        if not self.name:
            self.server.reach()
            return None
        try:
            fields = {} if self.name in self._checked else self.server.described(self.name)
            if fields and set(fields) != {"id", "told", "none"}:
                raise RgunitError(
                    f"collection {self.name} on {self.server.shown} is none of rgunit's: choose another name in "
                    "--vectors"
                )
            rows = self.server.call("query", self.name, filter="id in [1]", output_fields=["told"])
        except Gone:
            self._checked.discard(self.name)
            return None
        self._checked.add(self.name)
        try:
            mark = Mark.unpack(rows[0]["told"]) if rows else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RgunitError(
                f"collection {self.name} on {self.server.shown} is of another version of rgunit: choose another name "
                "in --vectors, or drop it"
            ) from error
        if mark is not None and mark.store != self.store:
            raise RgunitError(
                f"collection {self.name} on {self.server.shown} holds the vectors of another workspace than "
                f"{self.folder}, or this is a copy of its folder: choose another name in --vectors"
            )
        return mark

    def write_mark(self, mark: Mark) -> None:
        """Put the mark there."""
        if not self.server.call("has_collection", self.name):
            fields: list[Field] = [("id", "INT64", {"is_primary": True}), ("told", "VARCHAR", {"max_length": 65_535})]
            self.server.make(
                self.name, [*fields, ("none", "FLOAT_VECTOR", {"dim": 2})], "FLAT"
            )  # it must have a vector
        self.server.call("upsert", self.name, [{"id": 1, "told": mark.pack(), "none": [0.0, 0.0]}])

    def begin(self) -> str:
        """Give the store a name on the server, if it has none; return it. A copy gets another than the original."""
        if (store := self.store) is None:
            store = marker.fresh()
            if self.server.name:  # the mark of another store is refused
                self.read_mark()
            marker.write(self.folder, store, marker.VECTORS)
        return store

    # Filling

    def make(self, layout: Layout, index: str, fields: Fields, rows: int) -> Held:
        """Make an empty collection for so many rows under a name that none had."""
        held = Held(f"{self.name}_{secrets.token_hex(6)}", fields, rows)
        self.server.make(held.name, layout.fields(fields), index, cells_for(index, rows), layout.partitions)
        return held

    def put(self, held: Held, layout: Layout, state: State, tables: Tables, ids: Ids, *, fresh: bool) -> None:
        """Send those of some ids that have vectors, in batches; rows that are there are replaced (`fresh`: none is)."""
        size = max(1, min(MANY_IDS, BLOCK_BYTES // (4 * sum(table.info.dim for table in tables.values()))))
        ids = ids[find(state.ids, ids) >= 0]
        places = {name: table.places(ids) for name, table in tables.items()}
        some = np.any([own >= 0 for own in places.values()], axis=0)
        ids, places = ids[some], {name: own[some] for name, own in places.items()}
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            has = {name: own[part] >= 0 for name, own in places.items()}
            columns = layout.scalars(state, find(state.ids, ids[part]), has)
            columns |= {name: list(_gathered(tables[name], own[part])) for name, own in places.items()}
            self.server.call("insert" if fresh else "upsert", held.name, entities(columns))

    def settle(self, held: Held) -> None:
        """Have the index of a collection that nobody reads yet built over all that it has."""
        self.server.call("flush", held.name)
        until = time.monotonic() + LONGEST
        for name in held.fields:
            while int(self.server.call("describe_index", held.name, name).get("pending_index_rows", 0)):
                if time.monotonic() > until:
                    raise RgunitError(f"the index of {held.name} on {self.server.shown} is not built in {LONGEST:g} s")
                time.sleep(PAUSE)
        self.server.call("release_collection", held.name)
        self.server.call("load_collection", held.name)

    def delete(self, held: Held, ids: Sequence[int]) -> None:
        """Delete rows, whether or not they are there."""
        for start in range(0, len(ids), MANY_IDS):
            self.server.call("delete", held.name, ids=list(ids[start : start + MANY_IDS]))

    def drop_others(self, mark: Mark) -> None:
        """Drop collections of this store that the mark does not name: replaced ones, and those of a killed writer."""
        named = {held.name for held in mark.held.values()}
        for other in self.server.call("list_collections"):
            if re.fullmatch(re.escape(self.name) + "_[0-9a-f]{12}", other) and other not in named:
                self.server.call("drop_collection", other)

    # Searching

    def check(self, held: Held) -> None:
        """RgunitError where a collection has not the vectors that the mark says (looked at once). Raises Gone."""
        if held.name not in self._checked:
            there = self.server.described(held.name)
            for name, info in held.fields.items():
                if there.get(name) != info.dim:
                    raise RgunitError(
                        f"collection {held.name} on {self.server.shown} has {name} vectors of {there.get(name, 0)} "
                        f"numbers, not of {info.dim}: `rgunit index rebuild` makes another"
                    )
            self._checked.add(held.name)

    def search(
        self, held: Held, index: str, name: str, expression: str, queries: Vectors, k: int
    ) -> tuple[Vectors, Ids]:
        """Search a field: squared distances [q, k] ascending (inf) and ids [q, k] (-1 where fewer were found).

        Milvus picks candidates; distances are computed again as float32 differences to their vectors.
        """
        gaps, found = np.full((len(queries), k), np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        wanted, kind = k + SPARE, INDEXES[index]
        depth = {kind: max(held.depth, wanted) if kind == "ef" else held.depth} if kind else {}
        size = max(1, min(1024, REPLY_NUMBERS // (wanted * queries.shape[1])))
        named = {"anns_field": name, "limit": wanted, "filter": expression, "output_fields": [name]}
        for start in range(0, len(queries), size):
            part = list(queries[start : start + size])
            hits = self.server.call("search", held.name, data=part, search_params={"params": depth}, **named)
            for row, own in enumerate(hits, start):
                if len(own):
                    own = sorted(own, key=lambda hit: int(hit["id"]))
                    vectors = np.array([hit["entity"][name] for hit in own], np.float32)
                    best, order = rerank(queries[row : row + 1], vectors, np.arange(len(own))[None])
                    kept = min(k, len(own))
                    gaps[row, :kept] = best[0, :kept]
                    found[row, :kept] = np.array([hit["id"] for hit in own], np.int64)[order[0, :kept]]
        return gaps, found

    def measured(self, held: Held, index: str, name: str, queries: Vectors, truth: Ids) -> Held:
        """Return a collection with the least depth that finds WANTED_RECALL of the nearest 10 of some of its vectors,
        which `truth` [q, 11] begins with themselves."""
        for depth in DEPTHS:
            held = replace(held, depth=depth)
            found = self.search(held, index, name, "", queries, 11)[1]
            hits = [len(np.intersect1d(one[1:], other)) for one, other in zip(truth, found, strict=True)]
            held = replace(held, recall=sum(hits) / (10 * len(hits)))
            if sum(hits) >= WANTED_RECALL * 10 * len(hits):
                break
        return held

    # Comparing

    def differences(self, held: Held, layout: Layout, state: State, tables: Tables) -> list[str]:
        """Compare a collection's rows with a state's, but for the numbers of vectors; return a line if they differ."""
        self.forget()
        self.check(held)
        has = {name: table.places(state.ids) >= 0 for name, table in tables.items()}
        ids = state.ids[np.any(list(has.values()), axis=0)]
        missing, other, extra = 0, 0, 0
        for start, stop in pairwise([-(2**63) + 1, *ids[MANY_IDS::MANY_IDS].tolist(), 2**63 - 1]):
            rows = find(state.ids, ids[(ids >= start) & (ids < stop)])
            columns = layout.scalars(state, rows, {name: own[rows] for name, own in has.items()})
            expected = {row["id"]: row for row in entities(columns)}
            where = f"id >= {start} and id < {stop}"
            told = self.server.call("query", held.name, filter=where, output_fields=list(columns))
            found = {row["id"]: {name: row[name] for name in columns} for row in told}
            missing += len(expected.keys() - found.keys())
            extra += len(found.keys() - expected.keys())
            other += sum(found.get(one, row) != row for one, row in expected.items())
        if not missing + other + extra:
            return []
        return [
            f"{held.name} on {self.server.shown}: lacks {missing} rows, has {extra} that are not in the catalog and "
            f"{other} with other labels"
        ]


def _gathered(table: Table, places: npt.NDArray[np.int64]) -> Vectors:
    """The vectors at places of a table, zeros where a place is -1."""
    vectors = np.zeros((len(places), table.info.dim), np.float32)
    vectors[places >= 0] = table.gather(places[places >= 0])
    return vectors

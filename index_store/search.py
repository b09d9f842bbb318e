"""Searching a table of vectors: the rows that match exactly, or cells with an exact retry; merged over segments.

The one idea: a filter's matching rows are found once for each state and kept; while there is room their vectors are
kept too, contiguous, so that the next query with that filter reads only them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from index_store.ann import Cells
from index_store.attributes import Filter
from index_store.index import PRODUCT_FORM, Ids, Vectors, exact_search, merge, pick, scan_rows
from index_store.state import State, Table

CHUNK = 65_536  # rows gathered at a time where a subset is too large to keep
SMALL_BUDGET = 64 * 2**20
FILTERS = 256  # filters whose rows are kept
RECENT = 64  # searches within which a subset counts as in use


class Subset:
    """The rows that a filter keeps: places int64 [m] in a table, and what searches have derived from them."""

    def __init__(self, places: Ids, total: int, owner: Subsets | None = None) -> None:
        self.places = places
        self.total = total
        self.owner = owner
        self.vectors: Vectors | None = None
        self.last_used = 0
        self._mask: npt.NDArray[np.bool_] | None = None

    @property
    def share(self) -> float:
        """The part of all rows that it keeps."""
        return len(self.places) / max(1, self.total)

    @property
    def whole(self) -> bool:
        """Whether it keeps every row."""
        return len(self.places) == self.total

    def without(self, ids: Ids, excluded: Ids) -> Subset:
        """Return it less some ids; `ids` are those of the table's rows. Nothing of it is kept for later."""
        return Subset(self.places[~np.isin(ids[self.places], excluded)], self.total)

    def mask(self) -> npt.NDArray[np.bool_] | None:
        """Return bool [n] over the table's rows, None if it keeps all of them."""
        if self._mask is None and not self.whole:
            mask = np.zeros(self.total, np.bool_)
            mask[self.places] = True
            self._mask = mask
        return self._mask

    def at_hand(self, width: int) -> bool:
        """Whether its vectors, `width` bytes a row, are contiguous in memory or may be made so."""
        return self.vectors is not None or (self.owner is not None and self.owner.room_for(self, width))

    def gathered(self, table: Table) -> Vectors | None:
        """Return its vectors, contiguous and kept for the next query; None if there is no room for them."""
        if self.vectors is None and self.at_hand(4 * table.info.dim):
            self.vectors = table.gather(self.places)
        return self.vectors


class Subsets:
    """The subsets of recent filters, and a budget for the vectors that they keep."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._held: dict[tuple[int, int, str], Subset] = {}
        self._clock = 0
        self._budget = SMALL_BUDGET

    def get(self, state: State, table: Table, wanted: Filter) -> Subset:
        """Return the rows of a filter."""
        key = (state.sequence, table.info.number, wanted.text)
        with self._guard:
            self._clock += 1
            if key in self._held:
                self._held[key].last_used = self._clock
                return self._held[key]
        rows = table.rows
        if wanted.everything:
            places = np.flatnonzero(rows >= 0)
        else:
            mask = state.mask(wanted)
            places = np.flatnonzero(mask[rows] & (rows >= 0)) if len(mask) else np.zeros(0, np.int64)
        subset = Subset(places, len(rows), self)
        with self._guard:
            self._budget = max(SMALL_BUDGET, rows.size * table.info.dim)  # a quarter of the vectors
            subset.last_used = self._clock
            for old in [old for old in self._held if old[0] != state.sequence]:
                del self._held[old]
            self._held[key] = subset
            if len(self._held) > FILTERS:
                del self._held[min(self._held, key=lambda one: self._held[one].last_used)]
        return subset

    def room_for(self, subset: Subset, width: int) -> bool:
        """Whether the vectors of a subset fit beside those in use; those that were not used lately give way."""
        needed = len(subset.places) * width
        if subset.whole or needed > self._budget:
            return False
        with self._guard:
            kept = [one for one in self._held.values() if one.vectors is not None]
            used = sum(one.vectors.nbytes for one in kept if one.vectors is not None)
            for idle in sorted(kept, key=lambda one: one.last_used):
                if used + needed <= self._budget or idle.last_used > self._clock - RECENT:
                    break
                used -= idle.vectors.nbytes if idle.vectors is not None else 0
                idle.vectors = None
            return used + needed <= self._budget


def search_exact(table: Table, subset: Subset, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """Search the matching rows exactly: squared distances [q, k] and places in the table [q, k] (inf and -1)."""
    places = subset.places
    if subset.whole:
        best, start = [], 0
        for segment in table.segments:
            distances, found = exact_search(queries, segment.vectors, k)
            best.append((distances, np.where(found >= 0, found + start, -1)))
            start += len(segment.ids)
        return merge(best, len(queries), k)
    if (vectors := subset.gathered(table)) is not None:
        distances, found = exact_search(queries, vectors, k)
        return distances, pick(places, found)
    if len(queries) < PRODUCT_FORM:
        return _scan_where_they_lie(table, places, queries, k)
    best = []
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        distances, found = exact_search(queries, table.gather(part), k)
        best.append((distances, pick(part, found)))
    return merge(best, len(queries), k)


def _scan_where_they_lie(table: Table, places: Ids, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """Search some places of a table without gathering their vectors."""
    best, start = [], 0
    for segment in table.segments:
        first, last = np.searchsorted(places, (start, start + len(segment.ids)))
        results = [scan_rows(query, segment.vectors, places[first:last] - start, k) for query in queries]
        found = np.stack([rows for _, rows in results])
        best.append((np.stack([gaps for gaps, _ in results]), np.where(found >= 0, found + start, -1)))
        start += len(segment.ids)
    return merge(best, len(queries), k)


def search_cells(
    table: Table, cells: Sequence[Cells | None], subset: Subset, queries: Vectors, k: int
) -> tuple[Vectors, Ids, Ids]:
    """Search segments by their cells, those without by an exact scan; returns distances and places as `search_exact`,
    and the queries int64 [r] that saw too little and were searched exactly instead."""
    keep = subset.mask()
    distances, places = np.full((len(queries), k), np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    retry = []
    for row, query in enumerate(queries):
        best, start = [], 0
        for segment, own in zip(table.segments, cells, strict=True):
            inside = None if keep is None else keep[start : start + len(segment.ids)]
            if own is None:
                rows = np.arange(len(segment.ids)) if inside is None else np.flatnonzero(inside)
                result = scan_rows(query, segment.vectors, rows, k)
            else:
                seen = own.search(query, k, own.probes_for(k / subset.share), inside, subset.share)
                if seen is None:
                    retry.append(row)
                    break
                result = seen
            gaps, found = result[0][None], result[1][None]
            best.append((gaps, np.where(found >= 0, found + start, -1)))
            start += len(segment.ids)
        else:
            gaps, found = merge(best, 1, k)
            distances[row], places[row] = gaps[0], found[0]
    again = np.array(retry, np.int64)
    if len(again):
        distances[again], places[again] = search_exact(table, subset, np.ascontiguousarray(queries[again]), k)
    return distances, places, again


def search_fused(
    tables: Sequence[Table], rows: Ids, queries: Sequence[Vectors], weights: Sequence[float], k: int
) -> tuple[Vectors, Ids]:
    """Search rows of a state exactly by the weighted sum of several vectors' squared distances.

    Each of `tables` must hold every row. Returns sums [q, k] and positions in `rows` [q, k] (inf and -1).
    """
    roots = np.sqrt(np.asarray(weights, np.float32))
    query = np.hstack([root * part for root, part in zip(roots, queries, strict=True)])
    lookups = []
    for table in tables:
        place = np.full(int(max(table.rows.max(initial=-1), rows.max(initial=-1))) + 1, -1, np.int64)
        live = table.rows >= 0
        place[table.rows[live]] = np.flatnonzero(live)
        lookups.append(place)
    best: list[tuple[Vectors, Ids]] = []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        vectors = np.hstack(
            [root * table.gather(place[part]) for root, table, place in zip(roots, tables, lookups, strict=True)]
        )
        distances, found = exact_search(np.ascontiguousarray(query), np.ascontiguousarray(vectors), k)
        best.append((distances, np.where(found >= 0, found + start, -1)))
    return merge(best, len(query), k)


def group_queries(filters: Sequence[Filter]) -> list[tuple[Filter, npt.NDArray[np.int64]]]:
    """Return each different filter with the queries that use it."""
    groups: dict[str, tuple[Filter, list[int]]] = {}
    for query, wanted in enumerate(filters):
        groups.setdefault(wanted.text, (wanted, []))[1].append(query)
    return [(wanted, np.array(members, np.int64)) for wanted, members in groups.values()]

"""Searching a table of vectors: the rows that match exactly, or cells with an exact retry; merged over segments.

The one idea: a filter's matching rows are found once for each state and kept; if they fit the budget their vectors
are kept too, contiguous, so that the next query with that filter reads only them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from index_store.ann import Cells
from index_store.attributes import Filter
from index_store.index import PRODUCT_FORM, Ids, Vectors, exact_search, merge, scan_rows
from index_store.state import State, Table

CHUNK = 65_536  # rows gathered at a time where a subset is too large to keep
SMALL_BUDGET = 64 * 2**20


class Subset:
    """The rows that a filter keeps: places int64 [m] in a table, and what searches have derived from them."""

    def __init__(self, places: Ids, total: int, budget: int, width: int) -> None:
        self.places = places
        self.total = total
        self.fits = len(places) * width <= budget and len(places) < total
        self.vectors: Vectors | None = None
        self._mask: npt.NDArray[np.bool_] | None = None

    def without(self, ids: Ids, excluded: Ids) -> Subset:
        """Return it less some ids; `ids` are those of the table's rows. Nothing of it is kept for later."""
        return Subset(self.places[~np.isin(ids[self.places], excluded)], self.total, 0, 1)

    @property
    def share(self) -> float:
        """The part of all rows that it keeps."""
        return len(self.places) / max(1, self.total)

    def mask(self) -> npt.NDArray[np.bool_] | None:
        """Return bool [n] over the table's rows, None if it keeps all of them."""
        if len(self.places) == self.total:
            return None
        if self._mask is None:
            mask = np.zeros(self.total, np.bool_)
            mask[self.places] = True
            self._mask = mask
        return self._mask


class Subsets:
    """The subsets of recent filters; the least recently used ones go when their vectors exceed the budget."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: OrderedDict[tuple[int, int, str], Subset] = OrderedDict()

    def get(self, state: State, table: Table, wanted: Filter) -> Subset:
        """Return the rows of a filter."""
        key = (state.sequence, table.info.number, wanted.text)
        with self._guard:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        rows = table.rows
        if wanted.everything:
            places = np.flatnonzero(rows >= 0)
        else:
            mask = state.mask(wanted)
            places = np.flatnonzero(mask[rows] & (rows >= 0)) if len(mask) else np.zeros(0, np.int64)
        width = 4 * table.info.dim
        budget = max(SMALL_BUDGET, len(rows) * width // 4)
        subset = Subset(places, len(rows), budget, width)
        with self._guard:
            for old in [old for old in self._held if old[0] != state.sequence]:
                del self._held[old]
            self._held[key] = subset
            used = sum(held.vectors.nbytes for held in self._held.values() if held.vectors is not None)
            while used > budget and len(self._held) > 1:
                _, gone = self._held.popitem(last=False)
                used -= gone.vectors.nbytes if gone.vectors is not None else 0
        return subset


def search_exact(table: Table, subset: Subset, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """Search the matching rows exactly: squared distances [q, k] and places in the table [q, k] (inf and -1)."""
    places = subset.places
    if len(places) == subset.total:
        best, start = [], 0
        for segment in table.segments:
            distances, found = exact_search(queries, segment.vectors, k)
            best.append((distances, np.where(found >= 0, found + start, -1)))
            start += len(segment.ids)
        return merge(best, len(queries), k)
    if subset.fits:
        if subset.vectors is None:
            subset.vectors = table.gather(places)
        distances, found = exact_search(queries, subset.vectors, k)
        return distances, np.append(places, np.int64(-1))[found]
    if len(queries) < PRODUCT_FORM:
        return _scan_where_they_lie(table, places, queries, k)
    best = []
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        distances, found = exact_search(queries, table.gather(part), k)
        best.append((distances, np.append(part, np.int64(-1))[found]))
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
                seen = own.search(segment, query, k, own.probes_for(k / subset.share), inside, subset.share)
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

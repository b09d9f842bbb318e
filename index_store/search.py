"""Searching a table of vectors: exactly over the rows that match, merged over segments.

The one idea: a filter's matching rows are found once for each state and kept; if they fit the budget their vectors
are kept too, contiguous, so that the next query with that filter reads only them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_store.attributes import Filter
from index_store.index import exact_search, merge
from index_store.state import Ids, State, Table, Vectors

CHUNK = 65_536  # rows gathered at a time where a subset is too large to keep
SMALL_BUDGET = 64 * 2**20


@dataclass(frozen=True)
class Subset:
    """The rows that a filter keeps: places int64 [m] in a table; their vectors [m, d] if they are kept in memory."""

    places: Ids
    vectors: Vectors | None


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
        budget = max(SMALL_BUDGET, len(table.ids) * width // 4)
        keep = len(places) * width <= budget and not (table.whole and wanted.everything)
        subset = Subset(places, table.gather(places) if keep else None)
        with self._guard:
            for old in [old for old in self._held if old[0] != state.sequence]:
                del self._held[old]
            self._held[key] = subset
            used = sum(held.vectors.nbytes for held in self._held.values() if held.vectors is not None)
            while used > budget and len(self._held) > 1:
                _, gone = self._held.popitem(last=False)
                used -= gone.vectors.nbytes if gone.vectors is not None else 0
        return subset


def search_subset(table: Table, subset: Subset, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """Search the matching rows exactly: squared distances [q, k] and places in the table [q, k] (inf and -1)."""
    if subset.vectors is not None:
        distances, found = exact_search(queries, subset.vectors, k)
        return distances, np.append(subset.places, np.int64(-1))[found]
    if len(subset.places) == len(table.ids):
        return search_all(table, queries, k)
    best: list[tuple[Vectors, Ids]] = []
    for start in range(0, len(subset.places), CHUNK):
        places = subset.places[start : start + CHUNK]
        distances, found = exact_search(queries, table.gather(places), k)
        best.append((distances, np.append(places, np.int64(-1))[found]))
    return merge(best, len(queries), k)


def search_all(table: Table, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """Search every row exactly, segment by segment, where the vectors lie."""
    best, start = [], 0
    for segment in table.segments:
        distances, found = exact_search(queries, segment.vectors, k)
        best.append((distances, np.where(found >= 0, found + start, -1)))
        start += len(segment.ids)
    return merge(best, len(queries), k)


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

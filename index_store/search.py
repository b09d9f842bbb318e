"""Searching a table of vectors: the rows that match exactly, or cells with an exact retry; merged over segments.

The one idea: a filter's matching rows are found once for each state and kept; while there is room their vectors are
kept too, contiguous, so that the next query with that filter reads only them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from index_store import forking
from index_store.ann import Cells, depth_for
from index_store.attributes import Filter
from index_store.index import PRODUCT_FORM, Ids, Vectors, exact_search, merge, pick, scan_rows
from index_store.state import Segment, State, Table

if TYPE_CHECKING:
    from index_store.device import Device

CHUNK = 65_536  # rows gathered at a time where a subset is too large to keep
SMALL_BUDGET = 64 * 2**20
KEPT_BYTES = 20  # of each vector in the table, for the vectors of recent filters, where that is more
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
        self.plans: dict[tuple[int, bool, bool, int], Any] = {}  # the planner's choices

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

    def within(self, start: int, count: int) -> Ids | None:
        """Return its rows in the segment whose places begin at `start`, None if it keeps every row."""
        if self.whole:
            return None
        if not start and self.total == count:
            return self.places
        return self.places[slice(*np.searchsorted(self.places, (start, start + count)))] - start

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
        forking.remember(self)
        self._held: dict[tuple[int, int, str], Subset] = {}
        self._clock = 0
        self._budget = SMALL_BUDGET

    def after_fork(self) -> None:
        """In a forked child: a lock that no thread of the parent holds."""
        self._guard = threading.RLock()

    def get(self, state: State, table: Table, where: str | None) -> Subset:
        """Return the rows that a filter keeps."""
        key = (state.sequence, table.info.number, where or "")
        with self._guard:
            self._clock += 1
            if (held := self._held.get(key)) is not None:
                held.last_used = self._clock
                return held
        wanted = state.schema.filter(where)
        rows = table.rows
        if wanted.everything:
            places = rows if table.in_order else np.flatnonzero(rows >= 0)
        else:
            mask = state.mask(wanted)
            places = np.flatnonzero(mask[rows] & (rows >= 0)) if len(mask) else np.zeros(0, np.int64)
        subset = Subset(places, len(rows), self)
        with self._guard:
            self._budget = max(SMALL_BUDGET, rows.size * KEPT_BYTES)
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


def search_exact(
    table: Table, subset: Subset, queries: Vectors, k: int, device: Device | None = None
) -> tuple[Vectors, Ids]:
    """Search the matching rows exactly: squared distances [q, k] and places in the table [q, k] (inf and -1).

    On a `device` they are gathered before they are searched, whatever their number.
    """
    places = subset.places
    if not subset.whole and (vectors := subset.gathered(table)) is not None:
        distances, found = exact_search(queries, vectors, k, device)
        return distances, pick(places, found)
    best: list[tuple[Vectors, Ids]] = []
    if subset.whole or (device is None and len(queries) < PRODUCT_FORM):
        start = 0
        for segment in table.segments:
            best.append(_scan_segment(segment, start, subset, queries, k, device))
            start += len(segment.ids)
        return merge(best, len(queries), k)
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        distances, found = exact_search(queries, table.gather(part), k, device)
        best.append((distances, pick(part, found)))
    return merge(best, len(queries), k)


def _scan_segment(
    segment: Segment, start: int, subset: Subset, queries: Vectors, k: int, device: Device | None = None
) -> tuple[Vectors, Ids]:
    """Search the matching rows of the segment whose places begin at `start`, where they lie."""
    rows = subset.within(start, len(segment.ids))
    if rows is None:
        distances, found = exact_search(queries, segment.vectors, k, device)
    else:
        results = [scan_rows(query, segment.vectors, rows, k) for query in queries]
        distances, found = (np.stack(column) for column in zip(*results, strict=True))
    return distances, _shift(found, start)


def _shift(rows: Ids, start: int) -> Ids:
    """Return rows of the part that begins at `start` as rows of the whole, -1 as it is."""
    return np.where(rows >= 0, rows + start, -1) if start else rows


def depths(table: Table, subset: Subset, k: int) -> list[int]:
    """How many of each segment's nearest rows to look at first, 0 where none matches.

    As many as are nearer than the k-th that matches, if rows lie in segments as chance has it: r = k·rows/matches in
    the mean, with three deviations of √(r + r²/k), of r in the segment and of the rank of the k-th.
    """
    if subset.whole:
        return [k] * len(table.segments)
    found, start = [], 0
    for segment in table.segments:
        kept, rows = subset.within(start, len(segment.ids)), len(segment.ids)
        mean = k * rows / max(1, len(subset.places))
        deep = math.ceil(mean + 3 * math.sqrt(mean + mean**2 / k))
        found.append(deep if kept is None or len(kept) else 0)
        start += rows
    return found


def search_cells(
    table: Table, cells: Sequence[Cells | None], subset: Subset, queries: Vectors, k: int
) -> tuple[Vectors, Ids, Ids]:
    """Search segments by their cells, those without by an exact scan; returns distances and places as `search_exact`,
    and the queries int64 [r] that were searched exactly in some segment.

    A segment whose rows that were looked at do not reach as far as the k-th of all that was found may hide nearer ones:
    it is searched as deep as if all k were in it, and where that does not reach either exactly.
    """
    best: list[tuple[Vectors, Ids]] = []
    reach = np.full((len(table.segments), len(queries)), np.inf, np.float32)
    starts = np.cumsum([0, *(len(segment.ids) for segment in table.segments)]).tolist()
    for number, (segment, own, depth) in enumerate(zip(table.segments, cells, depths(table, subset, k), strict=True)):
        if not depth:
            best.append((np.full((len(queries), k), np.inf, np.float32), np.full((len(queries), k), -1)))
        elif own is None:
            best.append(_scan_segment(segment, starts[number], subset, queries, k))
        else:
            kept = subset.within(starts[number], len(segment.ids))
            distances, rows, reach[number] = own.search(queries, k, depth, kept)
            best.append((distances, _shift(rows, starts[number])))
    exactly = np.zeros(len(queries), np.bool_)
    for deeper in (True, False):
        far = merge(best, len(queries), k)[0][:, -1]
        for number in np.flatnonzero((reach < far).any(axis=1)).tolist():
            short = np.flatnonzero(reach[number] < far)
            segment, own, start = table.segments[number], cells[number], starts[number]
            asked, kept = np.ascontiguousarray(queries[short]), subset.within(start, len(segment.ids))
            depth = depth_for(k, (len(segment.ids) if kept is None else len(kept)) / len(segment.ids))
            if deeper and own is not None and own.cost(depth) is not None:
                distances, rows, reach[number, short] = own.search(asked, k, depth, kept)
                places = _shift(rows, start)
            else:
                distances, places = _scan_segment(segment, start, subset, asked, k)
                reach[number, short], exactly[short] = np.inf, True
            best[number][0][short], best[number][1][short] = distances, places
    distances, places = merge(best, len(queries), k)
    return distances, places, exactly.nonzero()[0]


def search_fused(
    tables: Sequence[Table], rows: Ids, queries: Sequence[Vectors], weights: Sequence[float], k: int
) -> tuple[Vectors, Ids]:
    """Search rows of a state exactly by the weighted sum of several vectors' squared distances.

    Each of `tables` must hold every row. Returns sums [q, k] and positions in `rows` [q, k] (inf and -1).
    """
    roots = np.sqrt(np.asarray(weights, np.float32))
    query = np.hstack([root * part for root, part in zip(roots, queries, strict=True)])
    lookups = [table.place_of for table in tables]
    best: list[tuple[Vectors, Ids]] = []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        vectors = np.hstack(
            [root * table.gather(place[part]) for root, table, place in zip(roots, tables, lookups, strict=True)]
        )
        distances, found = exact_search(np.ascontiguousarray(query), np.ascontiguousarray(vectors), k)
        best.append((distances, _shift(found, start)))
    return merge(best, len(query), k)


def group_queries(filters: Sequence[Filter]) -> list[tuple[Filter, npt.NDArray[np.int64]]]:
    """Return each different filter with the queries that use it."""
    groups: dict[str, tuple[Filter, list[int]]] = {}
    for query, wanted in enumerate(filters):
        groups.setdefault(wanted.text, (wanted, []))[1].append(query)
    return [(wanted, np.array(members, np.int64)) for wanted, members in groups.values()]

"""Answering one call: what a caller may ask (one filter or one for each query, ids to leave out for all or for each).

The one idea: queries with the same filter are one search; what each leaves out is asked for in addition and dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store.attributes import AttributeSchema, Filter
from index_store.batch import as_ids, as_vectors
from index_store.engines import Engine, Moved, View
from index_store.errors import UsageError
from index_store.index import pick
from index_store.live import Live
from index_store.search import group_queries, search_fused

TRIES = 3  # views that are asked before the sealed files are, where somebody commits again and again
MOST = 2**27  # results of one call
MANY_EXCLUDED = 64  # ids left out of every query from which they are taken out before the search, not after

Ids = npt.NDArray[np.int64]
Where = str | Sequence[str | None] | None
Exclude = npt.ArrayLike | Sequence[npt.ArrayLike] | None


@dataclass(frozen=True)
class Found:
    """Neighbours: ids int64 [q, k] (-1 where fewer match), squared L2 float32 [q, k] (inf), and what was done."""

    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float32]
    plan: str


def answer(
    engine: Engine,
    queries: npt.ArrayLike,
    k: int,
    where: Where,
    exclude: Exclude,
    encoder: str | None,
    exact: bool,
) -> Found:
    """Answer `IndexStore.search`."""
    k = whole(k)
    for _ in range(TRIES):
        with suppress(Moved):
            return _answer(engine.view(encoder), queries, k, where, exclude, exact)
    return _answer(engine.sealed(encoder), queries, k, where, exclude, exact)


def _answer(view: View, queries: npt.ArrayLike, k: int, where: Where, exclude: Exclude, exact: bool) -> Found:
    """See `answer`."""
    matrix = as_vectors(queries, view.dim, one=True)
    not_too_many(k, len(matrix))
    if exclude is None and (where is None or isinstance(where, str)):
        gaps, found, plan = view.nearest(where, matrix, k, exact)
        return Found(found, gaps, plan)
    count = len(matrix)
    excluded = per_query_ids(exclude, count)
    ids, distances = np.full((count, k), -1, np.int64), np.full((count, k), np.inf, np.float32)
    plans = []
    for wanted, members in group_queries(per_query_filters(view.schema, where, count)):
        extra = max((len(excluded[query]) for query in members), default=0)
        without = None
        if extra > MANY_EXCLUDED and all(excluded[query] is excluded[members[0]] for query in members):
            without, extra = excluded[members[0]], 0
        asked = np.ascontiguousarray(matrix[members])
        gaps, found, plan = view.nearest(wanted.text, asked, k + extra, exact, without)
        fill(ids, distances, members, found, gaps, excluded)
        plans.append(plan)
    return Found(ids, distances, "; ".join(sorted(set(plans))))


def answer_fused(
    live: Live,
    queries: Mapping[str, npt.ArrayLike],
    weights: Mapping[str, float],
    k: int,
    where: Where,
    exclude: Exclude,
) -> Found:
    """Answer `IndexStore.search_fused`."""
    if set(queries) != set(weights) or not queries:
        raise UsageError("queries and weights must name the same encoders")
    if not all(isinstance(one, Real) and 0 <= one < math.inf for one in weights.values()):
        raise UsageError("weights must be numbers of at least 0")
    k = whole(k)
    state, tables = live.snapshot(*queries)
    parts = [as_vectors(part, table.info.dim, one=True) for part, table in zip(queries.values(), tables, strict=True)]
    count = len(parts[0])
    if any(len(part) != count for part in parts):
        raise UsageError("every encoder needs the same number of queries")
    not_too_many(k, count)
    common = tables[0].rows[tables[0].rows >= 0]
    for table in tables[1:]:
        common = np.intersect1d(common, table.rows)
    excluded = per_query_ids(exclude, count)
    ids, distances = np.full((count, k), -1, np.int64), np.full((count, k), np.inf, np.float32)
    plans = []
    for wanted, members in group_queries(per_query_filters(state.schema, where, count)):
        rows = common[state.mask(wanted)[common]] if len(common) else common
        extra = max((len(excluded[query]) for query in members), default=0)
        chosen = [np.ascontiguousarray(part[members]) for part in parts]
        gaps, found = search_fused(tables, rows, chosen, [weights[name] for name in queries], k + extra)
        fill(ids, distances, members, pick(state.ids[rows], found), gaps, excluded)
        plans.append(f"exact scan of {len(rows)} rows by {' + '.join(queries)}")
    return Found(ids, distances, "; ".join(sorted(set(plans))))


def whole(k: int) -> int:
    """Return k; UsageError for what is no whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise UsageError(f"k must be a whole number of at least 1, not {k!r}")
    return int(k)


def not_too_many(k: int, queries: int) -> None:
    """Refuse (UsageError) a k whose answer would not fit: ids and distances are arrays [queries, k]."""
    if k * queries > MOST:
        raise UsageError(f"k = {k} for {queries} queries is too much: take at most {MOST // queries}, or fewer queries")


def per_query_filters(schema: AttributeSchema, where: Where, count: int) -> list[Filter]:
    """Return one filter for each query."""
    if where is None or isinstance(where, str):
        return [schema.filter(where)] * count
    if not isinstance(where, Sequence) or not all(text is None or isinstance(text, str) for text in where):
        raise UsageError(f"where must be one filter, or a list with one for each query, not {where!r}")
    if len(where) != count:
        raise UsageError(f"{count} queries but {len(where)} filters")
    parsed = {text: schema.filter(text) for text in set(where)}
    return [parsed[text] for text in where]


def per_query_ids(exclude: Any, count: int) -> list[Ids]:
    """Return the ids to leave out, a sorted array for each query: a 1-D array is for all, a list of arrays for each."""
    if exclude is None:
        return [np.zeros(0, np.int64)] * count
    if np.ndim(exclude) == 0 if isinstance(exclude, np.ndarray) else not isinstance(exclude, Sequence):
        raise UsageError(f"exclude must be a list of ids, or one list for each query, not {exclude!r}")
    if all(np.ndim(entry) == 0 for entry in exclude):
        return [np.unique(as_ids(exclude, "ids to leave out"))] * count
    if len(exclude) != count:
        raise UsageError(f"{count} queries but {len(exclude)} arrays of ids to leave out")
    return [np.unique(as_ids(entry, "ids to leave out")) for entry in exclude]


def fill(
    ids: Ids,
    distances: npt.NDArray[np.float32],
    members: Ids,
    found: Ids,
    gaps: npt.NDArray[np.float32],
    excluded: Sequence[Ids],
) -> None:
    """Write the results found [m, >= k] of some queries into ids and distances [q, k], less what each leaves out."""
    k = ids.shape[1]
    if not any(len(excluded[query]) for query in members):
        ids[members], distances[members] = found[:, :k], gaps[:, :k]
        return
    for place, query in enumerate(members):
        best = np.flatnonzero((found[place] >= 0) & ~np.isin(found[place], excluded[query]))[:k]
        ids[query, : len(best)] = found[place, best]
        distances[query, : len(best)] = gaps[place, best]

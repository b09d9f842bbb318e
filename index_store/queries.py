"""What a caller may ask in one call: one filter or one a query, ids to leave out for all or for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store.attributes import AttributeSchema, Filter
from index_store.errors import UsageError

Ids = npt.NDArray[np.int64]


def per_query_filters(schema: AttributeSchema, where: str | Sequence[str | None] | None, count: int) -> list[Filter]:
    """Return one filter a query."""
    if where is None or isinstance(where, str):
        return [schema.filter(where)] * count
    if len(where) != count:
        raise UsageError(f"{count} queries but {len(where)} filters")
    parsed = {text: schema.filter(text) for text in set(where)}
    return [parsed[text] for text in where]


def per_query_ids(exclude: Any, count: int) -> list[Ids]:
    """Return the ids to leave out, one sorted array a query: a 1-D array is for all, a list of arrays for each."""
    if exclude is None:
        return [np.zeros(0, np.int64)] * count
    if isinstance(exclude, np.ndarray) and exclude.ndim == 1 and exclude.dtype != object:
        return [np.unique(exclude.astype(np.int64))] * count
    entries = list(exclude)
    if all(np.ndim(entry) == 0 for entry in entries):
        return [np.unique(np.asarray(entries, np.int64))] * count
    if len(entries) != count:
        raise UsageError(f"{count} queries but {len(entries)} arrays of ids to leave out")
    return [np.unique(np.asarray(entry, np.int64).ravel()) for entry in entries]


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

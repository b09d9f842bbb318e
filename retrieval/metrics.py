"""How good a retrieval is, as pure functions of arrays: P@k as the paper counts it, its expectation at random, mAP.

Shapes: q queries, k neighbours, n images of the retrieval set, A attributes. Labels int8 in {1, 0, −1
unknown}; an unknown label neither matches nor misses: it is left out of its mean (nan where nothing is
left).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]


def precision_at_k(neighbour_labels: Labels, target: Labels) -> Floats:
    """Share of the k neighbours [q, k, A] whose label equals the target's [q, A]: float64 [q, A] (methods.md, 2)."""
    known = (neighbour_labels >= 0) & (target >= 0)[:, None]
    match = known & (neighbour_labels == target[:, None])
    return _share(match.sum(axis=1), known.sum(axis=1))


def random_precision(labels: Labels, target: Labels, own: NDArray[np.int64]) -> Floats:
    """What `precision_at_k` is on average for neighbours drawn at random, exactly: float64 [q, A].

    labels [n, A] of the retrieval set, target [q, A]; own [q] is each query's row in the set, which it
    cannot draw (−1 if it is not in the set).
    """
    asked = (target >= 0).astype(np.int64)
    ones, zeros = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    mine = np.where((own >= 0)[:, None], labels[own], -1)
    match = np.where(target == 1, ones, zeros) - (mine == target)
    return _share(match * asked, (ones + zeros - (mine >= 0)) * asked)


def same_labels_precision(
    labels: Labels, target: Labels, own: NDArray[np.int64], used: Labels, wanted: Labels
) -> Floats:
    """`random_precision` of neighbours drawn among the images whose `used` labels [n, U] are `wanted` [q, U].

    What a retrieval scores on labels [n, A] that knows the style perfectly and no content: float64 [q, A],
    nan where no other image has the wanted labels.
    """
    expected = np.full(target.shape, np.nan)
    vectors, group = np.unique(wanted, axis=0, return_inverse=True)
    group = group.reshape(-1)
    for place, vector in enumerate(vectors):
        rows, queries = np.flatnonzero((used == vector).all(axis=1)), np.flatnonzero(group == place)
        if len(rows):
            row_of = np.full(len(labels), -1)
            row_of[rows] = np.arange(len(rows))
            inside = np.where(own[queries] >= 0, row_of[own[queries]], -1)
            expected[queries] = random_precision(labels[rows], target[queries], inside)
    return expected


def nearest(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    own: NDArray[np.int64],
    k: int,
    block: int = 256,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Exact k nearest rows of `vectors` [n, d] for `queries` [q, d], never row own[q]: (rows, squared L2) [q, k].

    The oracle that no index stands behind; k must be at most n − 1. Equal distances come in order of row.
    """
    rows = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        table = squared_distances(queries[part], vectors, own[part])
        rows[part] = np.argsort(table, axis=1, kind="stable")[:, :k]
        distances[part] = np.take_along_axis(table, rows[part], axis=1)
    return rows, distances


def squared_distances(queries: NDArray[np.float32], vectors: NDArray[np.float32], own: NDArray[np.int64]) -> Floats:
    """Squared L2 distances float64 [q, n], inf at each query's own row."""
    a, b = queries.astype(np.float64), vectors.astype(np.float64)
    table: Floats = np.maximum((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None], 0.0)
    table[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
    return table


def average_precision(relevant: NDArray[np.bool_]) -> Floats:
    """Average precision float64 [q] of rankings bool [q, n], best first; nan without a relevant image."""
    found = relevant.cumsum(axis=1)
    precision = found / np.arange(1, relevant.shape[1] + 1)
    return _share((precision * relevant).sum(axis=1), relevant.sum(axis=1))


def recall_at_k(relevant: NDArray[np.bool_], k: int) -> Floats:
    """Share of all relevant images that are among the first k of rankings bool [q, n]: float64 [q], nan without any."""
    return _share(relevant[:, :k].sum(axis=1), relevant.sum(axis=1))


def mean(values: Floats, axis: int | None = None) -> Any:
    """Mean that leaves nan out; nan (silently) where nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


def number(value: float) -> float | None:
    """A float for JSON: None for nan."""
    return None if np.isnan(value) else float(value)


def _share(count: NDArray[Any], of: NDArray[Any]) -> Floats:
    shares: Floats = np.divide(count, of, out=np.full(np.shape(count), np.nan), where=of > 0)
    return shares

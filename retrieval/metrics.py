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


def random_precision(
    labels: Labels, target: Labels, own: NDArray[np.int64], family: NDArray[np.int64] | None = None
) -> Floats:
    """What `precision_at_k` is on average for neighbours drawn at random, exactly: float64 [q, A].

    labels [n, A] of the retrieval set, target [q, A]; own [q] is each query's row in the set, which it
    cannot draw (−1 if it is not in the set), nor any image of the same `family` [n] where that is given.
    """
    asked = (target >= 0).astype(np.int64)
    ones, zeros = (labels == 1).astype(np.int64), (labels == 0).astype(np.int64)
    mine = _kin(ones, own, family), _kin(zeros, own, family)
    left = ones.sum(axis=0) - mine[0], zeros.sum(axis=0) - mine[1]
    return _share(np.where(target == 1, left[0], left[1]) * asked, (left[0] + left[1]) * asked)


def same_labels_precision(
    labels: Labels,
    target: Labels,
    own: NDArray[np.int64],
    used: Labels,
    wanted: Labels,
    family: NDArray[np.int64] | None = None,
) -> Floats:
    """`random_precision` of neighbours drawn among the images whose `used` labels [n, U] are `wanted` [q, U].

    What a retrieval scores on labels [n, A] that knows the style perfectly and no content: float64 [q, A],
    nan where no other image has the wanted labels.
    """
    family = np.arange(len(labels)) if family is None else family
    expected = np.full(target.shape, np.nan)
    vectors, group = np.unique(wanted, axis=0, return_inverse=True)
    group = group.reshape(-1)
    for place, vector in enumerate(vectors):
        inside, queries = (used == vector).all(axis=1), np.flatnonzero(group == place)
        chosen = np.where(inside[:, None], labels, -1)
        expected[queries] = random_precision(chosen, target[queries], own[queries], family)
    return expected


def smallest(table: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The k smallest of each row of a table [q, n], ascending, equal ones in order of column: (columns, values)."""
    columns = np.sort(np.argpartition(table, k - 1, axis=1)[:, :k], axis=1)
    values = np.take_along_axis(table, columns, axis=1)
    tied = np.flatnonzero((table <= values.max(axis=1, keepdims=True)).sum(axis=1) > k)
    order = np.argsort(values, axis=1, kind="stable")
    columns = np.take_along_axis(columns, order, axis=1)
    columns[tied] = np.argsort(table[tied], axis=1, kind="stable")[:, :k]
    return columns, np.take_along_axis(table, columns, axis=1)


def squared_distances(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> Floats:
    """Squared L2 distances float64 [q, n]."""
    a, b = queries.astype(np.float64), vectors.astype(np.float64)
    table: Floats = np.maximum((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None], 0.0)
    return table


def average_precision(relevant: NDArray[np.bool_]) -> Floats:
    """Average precision float64 [q] of rankings bool [q, n], best first; nan without a relevant image."""
    found = relevant.cumsum(axis=1)
    precision = found / np.arange(1, relevant.shape[1] + 1)
    return _share((precision * relevant).sum(axis=1), relevant.sum(axis=1))


def average_precision_at_k(relevant: NDArray[np.bool_], of: NDArray[np.int64]) -> Floats:
    """Average precision float64 [q] of the first k places bool [q, k], best first, of `of` [q] relevant ones.

    A perfect first page is 1, however few or many there are: the sum is divided by min(k, of); nan where `of` is 0.
    """
    precision = relevant.cumsum(axis=1) / np.arange(1, relevant.shape[1] + 1)
    return _share((precision * relevant).sum(axis=1), np.minimum(of, relevant.shape[1]))


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


def _kin(counts: NDArray[np.int64], own: NDArray[np.int64], family: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Sum of counts [n, A] over each query's family, or its own row: int64 [q, A]."""
    if family is not None:
        codes = np.unique(family, return_inverse=True)[1].reshape(-1)
        sums = np.zeros((int(codes.max(initial=-1)) + 1, counts.shape[1]), np.int64)
        np.add.at(sums, codes, counts)
        counts = sums[codes]
    return np.where((own >= 0)[:, None], counts[own], 0)


def _share(count: NDArray[Any], of: NDArray[Any]) -> Floats:
    shares: Floats = np.divide(count, of, out=np.full(np.shape(count), np.nan), where=of > 0)
    return shares

"""Distances between sets of images, each with an interval that knows whose pictures they are.

Images of one person are not independent, so people are resampled, not images. Shares and means are bootstrapped.
A Fréchet distance would cost an eigendecomposition a resample; its interval comes from the infinitesimal
jackknife instead: the derivative of the distance by the weight of every image, exact and free with the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Frechet:
    """A Fréchet distance and the influence of every row on it.

    `influence_a` float64 [n] and `influence_b` float64 [m] have mean 0: with weight 1 + ε on row i of a the distance
    moves by ε · influence_a[i] / n, to first order.
    """

    distance: float
    influence_a: Float
    influence_b: Float


def frechet(a: ArrayLike, b: ArrayLike) -> Frechet:
    """Fréchet distance ‖μa − μb‖² + tr(Σa + Σb − 2(ΣaΣb)^½) between feature sets a [n, d] and b [m, d], in float64,
    with the influence of every row (infinitesimal jackknife).

    Heusel et al. 2017, Eq. 6. The trace of the root is the nuclear norm of A·Bᵀ for centred a, b: no root of a
    nearly singular matrix is taken, so n < d is fine. ValueError for fewer than 2 rows or different widths.
    """
    rows_a, rows_b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if rows_a.ndim != 2 or rows_b.ndim != 2 or rows_a.shape[1] != rows_b.shape[1]:
        raise ValueError(f"expected features [n, d] and [m, d], got {rows_a.shape} and {rows_b.shape}")
    n, m = len(rows_a), len(rows_b)
    if min(n, m) < 2:
        raise ValueError(f"a Fréchet distance needs 2 rows a side, got {n} and {m}")
    mean_a, mean_b = rows_a.mean(axis=0), rows_b.mean(axis=0)
    centred_a, centred_b = rows_a - mean_a, rows_b - mean_b
    scaled_a, scaled_b = centred_a / np.sqrt(n - 1), centred_b / np.sqrt(m - 1)
    # A = Qa·Ra and B = Qb·Rb, so the singular values of A·Bᵀ [n, m] are those of Ra·Rbᵀ [min(n, d), min(m, d)].
    q_a, r_a = np.linalg.qr(scaled_a)
    q_b, r_b = np.linalg.qr(scaled_b)
    u, s, vt = np.linalg.svd(r_a @ r_b.T, full_matrices=False)
    root_a = np.square(q_a @ u) @ s  # diagonal of (A Bᵀ B Aᵀ)^½, [n]
    root_b = np.square(q_b @ vt.T) @ s
    norms_a, norms_b = np.square(centred_a).sum(axis=1), np.square(centred_b).sum(axis=1)
    shift = mean_a - mean_b
    distance = float(shift @ shift + norms_a.sum() / (n - 1) + norms_b.sum() / (m - 1) - 2 * s.sum())
    influence_a = 2 * centred_a @ shift + n * (norms_a / (n - 1) - root_a)
    influence_b = -2 * centred_b @ shift + m * (norms_b / (m - 1) - root_b)
    return Frechet(max(distance, 0.0), influence_a - influence_a.mean(), influence_b - influence_b.mean())


def kernel_discrepancy(a: ArrayLike, b: ArrayLike) -> float:
    """KMMD: the maximum mean discrepancy between feature sets a [n, d] and b [m, d], n and m at least 2.

    Gaussian kernel exp(−‖x − y‖² / 2s²), s the median distance between rows of b, the reference, so that everything
    compared with it has the same kernel. √max(0, MMD²) of the unbiased estimate (Gretton et al. 2012, Eq. 3).
    """
    rows_a, rows_b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    within_a, within_b, between = _squared(rows_a, rows_a), _squared(rows_b, rows_b), _squared(rows_a, rows_b)
    n, m = len(rows_a), len(rows_b)
    width = max(float(np.median(within_b[np.triu_indices(m, 1)])), 1e-12)
    k_a, k_b, k_ab = (np.exp(-each / (2 * width)) for each in (within_a, within_b, between))
    squared = (k_a.sum() - n) / (n * (n - 1)) + (k_b.sum() - m) / (m * (m - 1)) - 2 * k_ab.mean()
    return float(np.sqrt(max(squared, 0.0)))


def _squared(a: Float, b: Float) -> Float:
    """‖x − y‖² of each row of a [n, d] and each of b [m, d]: [n, m]; exactly 0 of a row and itself."""
    found = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
    if a is b:
        np.fill_diagonal(found, 0.0)
    return np.asarray(np.maximum(found, 0.0))


def jackknife_error(influences: Sequence[tuple[Float, Sequence[str] | None]]) -> float:
    """Standard error from (influence [n], its people or None) of each side; rows of one person move together."""
    variance = 0.0
    for influence, groups in influences:
        sums = influence if groups is None else _group_sums(influence[None], groups)[0]
        count = len(sums)
        variance += float(np.square(sums).sum()) / len(influence) ** 2 * count / max(count - 1, 1)
    return float(np.sqrt(variance))


def joined(influences: Sequence[Float]) -> Float:
    """The influence on the mean of several distances of all their rows, given those of each distance by itself."""
    rows = sum(map(len, influences))
    return np.concatenate([one * (rows / len(one) / len(influences)) for one in influences])


def interval(value: float, error: float) -> tuple[float, float]:
    """95 % interval of a normal estimate."""
    return value - Z95 * error, value + Z95 * error


@dataclass(frozen=True)
class Resamples:
    """The same draws of people for every arm, so that differences between arms are paired.

    `weights` float64 [r, g]: how often each of g people is drawn in each of r resamples.
    """

    groups: tuple[str, ...]
    weights: Float

    @staticmethod
    def draw(groups: Sequence[str], count: int, seed: int) -> Resamples:
        """`count` bootstrap resamples of the distinct people in `groups` (one name a row)."""
        people = len(set(groups))
        weights = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=count)
        return Resamples(tuple(groups), weights.astype(np.float64))

    def ratio(self, hits: ArrayLike, counts: ArrayLike) -> tuple[float, Float]:
        """Σ hits / Σ counts over rows [n] and its value in every resample [r] (nan where nothing is counted)."""
        table = np.stack([np.asarray(hits, dtype=np.float64), np.asarray(counts, dtype=np.float64)])
        sums = _group_sums(table, self.groups) @ self.weights.T
        total = table.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(total[0] / total[1]), sums[0] / sums[1]


def percentile_interval(draws: Float) -> tuple[float, float]:
    """95 % percentile interval of bootstrap draws [r]; resamples without a value are left out."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [n, d] at length 1; of length 0 they stay 0."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def cosine_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> Float:
    """1 − cos of each pair of rows of [n, d] and [n, d], in [0, 2]."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.einsum("nd,nd->n", a, b) / np.maximum(norms, 1e-12)
    return np.asarray(np.clip(1.0 - cosine, 0.0, 2.0), dtype=np.float64)


def pixel_distance(a: NDArray[np.uint8], b: NDArray[np.uint8], where: NDArray[np.bool_] | None = None) -> Float:
    """Mean absolute difference of each pair of images [n, H, W, 3], in [0, 1].

    `where` bool [n, H, W]: over those pixels alone, nan for a pair that has none.
    """
    difference = np.abs(a.astype(np.int16) - b.astype(np.int16))
    if where is None:
        return np.asarray(difference.reshape(len(a), -1).mean(axis=1) / 255.0, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        sums, pixels = (difference.sum(axis=3) * where).sum(axis=(1, 2)), where.sum(axis=(1, 2))
        return np.asarray(sums / (3 * pixels) / 255.0, dtype=np.float64)


def _group_sums(table: Float, groups: Sequence[str]) -> Float:
    """Sums of the columns of [t, n] that belong to one group: [t, g], groups in order of first appearance."""
    order = {name: position for position, name in enumerate(dict.fromkeys(groups))}
    member = np.array([order[name] for name in groups])
    return np.stack([np.bincount(member, weights=row, minlength=len(order)) for row in table])

"""Exact nearest neighbours; the only module that imports FAISS.

The one idea: FAISS picks candidates, and the distances that are returned are computed again in float32 differences
(FAISS's matrix product form loses digits by cancellation and changes with the batch size).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

SPARE = 8  # candidates beyond k, so that rounding in FAISS cannot push a true neighbour out


def _faiss() -> Any:
    """Import FAISS when it is first needed."""
    import faiss

    return faiss


def exact_search(queries: Vectors, vectors: Vectors, k: int) -> tuple[Vectors, Rows]:
    """Return squared L2 distances [q, k] ascending and rows [q, k]; inf and -1 where there are fewer than k rows."""
    count, kept = len(vectors), min(k, len(vectors))
    distances = np.full((len(queries), k), np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    if kept and len(queries):
        _, candidates = _faiss().knn(queries, vectors, min(count, kept + SPARE))
        best, order = rerank(queries, vectors, candidates.astype(np.int64))
        distances[:, :kept], rows[:, :kept] = best[:, :kept], order[:, :kept]
    return distances, rows


def rerank(queries: Vectors, vectors: Vectors, candidates: Rows) -> tuple[Vectors, Rows]:
    """Sort candidate rows [q, c] by their true squared distance (ties by row); -1 goes last with inf."""
    gathered = vectors[np.maximum(candidates, 0)]
    gap = gathered - queries[:, None, :]
    distances = np.einsum("qcd,qcd->qc", gap, gap)
    distances[candidates < 0] = np.inf
    order = np.lexsort((candidates, distances), axis=1)
    return (
        np.take_along_axis(distances, order, axis=1).astype(np.float32),
        np.take_along_axis(candidates, order, axis=1),
    )

"""How far apart two images of a collection are on average, by each kind of vector.

The one idea: distances by content and by style have other units in every run; divided by their mean they can be
weighed against each other, and a weight means the same in all runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from index_store.workspace import Workspace

SAMPLE = 4096
"""Images whose distances tell how far those of a query are spread."""


def measure_scale(workspace: Workspace, encoder: str, fingerprint: str) -> float | None:
    """The mean squared distance between the vectors of two images of the collection, kept; None without vectors.

    E|x − y|² = 2 (E|x|² − |E x|²), in one pass over the files.
    """
    count, squares, total = 0, 0.0, np.zeros(1)
    for _, vectors in workspace.store().blocks(encoder, fingerprint):
        block = vectors.astype(np.float64)
        count += len(block)
        squares += float(np.einsum("nd,nd->", block, block))
        total = total + block.sum(axis=0)
    if not count:
        return None
    mean = total / count
    scale = max(2 * (squares / count - float(mean @ mean)), 1e-12)
    workspace.set_meta(_setting(encoder), json.dumps({"fingerprint": fingerprint, "scale": scale, "images": count}))
    return scale


def scale_of(workspace: Workspace, encoder: str, fingerprint: str) -> float | None:
    """What `measure_scale` has kept for vectors of this fingerprint; None if nothing."""
    told = json.loads(workspace.meta(_setting(encoder)) or "{}")
    return float(told["scale"]) if told.get("fingerprint") == fingerprint else None


def spread(workspace: Workspace, queries: Mapping[str, NDArray[np.float32]], weights: Mapping[str, float]) -> float:
    """The standard deviation of a query's distances to the collection: what makes different distances comparable.

    `queries` {encoder@fingerprint: float32 [1, d]} and `weights` as of `IndexStore.search_fused`. Over the real and
    unlabelled images that have these vectors, of more than `SAMPLE` as many in equal steps; 1 where all are as far.
    """
    ids = workspace.images("origin=real|unlabelled").ids
    for name in queries:
        encoder, _, seal = name.partition("@")
        ids = np.intersect1d(ids, workspace.store().vector_ids(encoder, seal))
    ids = ids[np.linspace(0, len(ids) - 1, min(len(ids), SAMPLE)).astype(np.int64)] if len(ids) else ids
    sums = np.zeros(len(ids))
    for name, query in queries.items():
        vectors = workspace.store().vectors(ids, encoder=name)
        sums += weights[name] * np.square(vectors - query).sum(axis=1, dtype=np.float64)
    deviation = float(sums.std()) if len(ids) else 0.0
    return deviation if deviation > 1e-9 else 1.0


def _setting(encoder: str) -> str:
    return f"scale.{encoder}"

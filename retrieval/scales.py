"""How far apart two images of a collection are on average, by each kind of vector.

The one idea: distances by content and by style have other units in every run; divided by their mean they can be
weighed against each other, and a weight means the same in all runs.
"""

from __future__ import annotations

import json

import numpy as np

from index_store.workspace import Workspace


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


def _setting(encoder: str) -> str:
    return f"scale.{encoder}"

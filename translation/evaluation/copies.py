"""Whether guidance copies: how many translations are nearer to an image that guided them than real people get.

A translation counts as a copy when its cosine distance to one of its neighbours is below a threshold: the distance to
their nearest that 1 in 100 real images of half B keeps from the images of half A, who are other people. So real images
would count in 1 of 100 cases, and the arm `neighbour`, which returns its neighbour, in all. Features are the judge's
where there is one (it tells people apart), else the attribute classifier's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index_store.workspace import Workspace
from translation.evaluation.distances import unit

SHARE = 0.01  # of real images that are as near to another person's
BATCH = 256  # neighbours decoded at a time

Features = NDArray[np.float32]


@dataclass
class CopyMeter:
    """Counts copies by `features`, uint8 images [n, S, S, 3] → float32 [n, d]; each neighbour is read once.

    `threshold` is a cosine distance in [0, 2].
    """

    workspace: Workspace
    size: int
    features: Callable[[NDArray[np.uint8]], Features]
    threshold: float
    _seen: dict[int, Features] = field(default_factory=dict)

    def copied(self, features: Features, neighbours: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [n]: whether features [n, d] of translations are nearer than the threshold to one of `neighbours`.

        Those are ids [n, k], k ≥ 1, −1 = none.
        """
        missing = np.array([i for i in np.unique(neighbours[neighbours >= 0]) if int(i) not in self._seen], np.int64)
        for start in range(0, len(missing), BATCH):
            ids = missing[start : start + BATCH]
            self._seen.update(zip(ids.tolist(), unit(self.features(self.workspace.load(ids, self.size))), strict=True))
        rows = unit(features)
        found = np.zeros(len(rows), dtype=bool)
        for column in neighbours.T:
            there = np.flatnonzero(column >= 0)
            guides = np.stack([self._seen[int(i)] for i in column[there]]) if len(there) else rows[:0]
            found[there] |= 1 - np.einsum("nd,nd->n", rows[there], guides) < self.threshold
        return found


def copy_threshold(features: Features, others: Features) -> float:
    """The cosine distance to their nearest of `others` [m, d] that SHARE of the real `features` [n, d] keep below."""
    nearest = 1 - (unit(features) @ unit(others).T).max(axis=1)
    return float(np.quantile(nearest, SHARE))

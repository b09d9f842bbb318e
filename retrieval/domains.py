"""The label vectors of a set of images, to draw from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Domains:
    """The label vectors of a set of images, to draw from: each draw excludes one domain and needs no retry.

    labels int8 [n, A], all known; a domain is a distinct row, drawn as often as images have it.
    """

    def __init__(self, labels: NDArray[np.int8]) -> None:
        self.vectors, self.of, self.counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
        self.of = self.of.reshape(-1)
        self.order = np.argsort(self.of, kind="stable")  # images, domain after domain
        self.starts = np.cumsum(self.counts) - self.counts

    def __len__(self) -> int:
        return len(self.vectors)

    def draw_outside(
        self, rng: np.random.Generator, domain: NDArray[np.int64], not_image: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """For each of `domain` [B] one image (row number) of another domain, and not `not_image` itself."""
        outside = len(self.order) - self.counts[domain]
        place = rng.integers(0, outside)
        image = self._at(place, domain)
        if not_image is not None:  # the next place outside instead
            place = np.where(image == not_image, (place + 1) % outside, place)
            image = self._at(place, domain)
        return image

    def _at(self, place: NDArray[np.int64], domain: NDArray[np.int64]) -> NDArray[np.int64]:
        skip = np.where(place >= self.starts[domain], self.counts[domain], 0)
        chosen: NDArray[np.int64] = self.order[place + skip]
        return chosen

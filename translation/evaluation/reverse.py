"""Reverse classification: what a classifier learns from translations, measured on real images of other people.

A ResNet-18 is trained from scratch on an arm's translations of half A with the labels they were to get, and reads the
used attributes of half B's real images. If a translator changes too little, breaks its pictures or makes all of them
alike, fewer are read right. Every arm's classifier takes the same steps from the same start over the same order of
pairs; the first is trained on the real images of half A with their own labels, the floor to compare with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.tensors import first_weights
from translation.evaluation.classifier import AttributeClassifier, build_network, fit
from translation.evaluation.config import EvaluationConfig


@dataclass
class ReverseMeter:
    """Trains on images and tests on `real` uint8 [m, S, S, 3] with `labels` int8 [m, U] (−1: unknown).

    `steps` are those of the first training, which may be ended by the configuration's `reverse_minutes`.
    """

    names: tuple[str, ...]
    real: NDArray[np.uint8]
    labels: NDArray[np.int8]
    config: EvaluationConfig
    device: str
    seed: int
    steps: int | None = None

    def score(self, images: NDArray[np.uint8], labels: NDArray[np.int8]) -> NDArray[np.int64]:
        """int64 [m, 2]: for each real image the attributes read right and those known, after training on [n, S, S, 3].

        `labels` int8 [n, U] in {1, 0, −1 = unknown, not trained on}.
        """
        size = images.shape[1]
        network = first_weights(self.seed, lambda: build_network("resnet18", len(self.names), size))
        settings = self.config.model_copy(update={"classifier_minutes": self.config.reverse_minutes})
        pixels = torch.from_numpy(images)
        read: Callable[[NDArray[np.int64]], torch.Tensor] = lambda rows: pixels[torch.from_numpy(rows)]  # noqa: E731
        first = self.steps is None
        taken = fit(
            network,
            read,
            labels,
            settings,
            self.device,
            self.seed,
            None,
            steps=self.config.reverse_steps if self.steps is None else self.steps,
            timed=first,
        )
        self.steps = taken if self.steps is None else self.steps
        about = {"names": self.names, "size": size, "architecture": "resnet18", "fingerprint": "reverse"}
        bits = AttributeClassifier(network, about, self.device).read(self.real).bits
        known = self.labels >= 0
        return np.stack([((bits == self.labels) & known).sum(1), known.sum(1)], axis=1).astype(np.int64)

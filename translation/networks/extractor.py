"""UDIT's semantic extractor: a small classifier whose last map is narrowed to D channels (thesis, Section 5.5.1)."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from translation.networks.blocks import convolution, scaled

COARSEST = 8  # places a side of the last map, 4 for images of 32 px


class Extractor(nn.Module):
    """h and what reads it: image [B, 3, size, size] in [−1, 1] → logit [B]. `features` are h itself, [B, D, s, s].

    4×4 convolutions by 2 (32, 64, 128 channels times `scale`, three or more), a 1×1 convolution to D, then two linear
    layers over the whole map. s is 4 at 32 px, else 8.
    """

    def __init__(self, size: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        halvings = max(3, (size // COARSEST).bit_length() - 1)
        channels = [3, *(scaled(32 * min(2**i, 4), scale) for i in range(halvings))]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            layers += [convolution(inputs, outputs, 4, 2), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.narrow = nn.Conv2d(channels[-1], width, 1)
        side = size >> halvings
        self.read = nn.Sequential(
            nn.ReLU(), nn.Flatten(), nn.Linear(width * side**2, 64), nn.ReLU(inplace=True), nn.Linear(64, 1)
        )

    def features(self, images: Tensor) -> Tensor:
        return self.narrow(self.layers(images))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        return self.read(self.features(images))[:, 0]  # type: ignore[no-any-return]

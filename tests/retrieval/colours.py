"""A translation model whose every answer is known: the blue pattern is the content, red and green are the style.

Real torch modules with parameters, so that tests can ask whether training left them alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.attributes import AttributeSchema


@dataclass(frozen=True)
class Painted:
    image: Tensor


class ColourEncoders:
    """Attribute a is true where the mean of its colour is bright; 8 numbers each, as GMM-UNIT's style."""

    def __init__(self, names: tuple[str, ...] = ("Red", "Green"), size: int = 32) -> None:
        self.schema = AttributeSchema(names)
        self.size, self.content_channels, self.style_dim = size, 4, 8 * len(names)
        self.device = torch.device("cpu")
        self.fingerprint = hashlib.sha256(f"{names} {size}".encode()).hexdigest()
        self.content_network = nn.Conv2d(1, 4, 4, stride=4)
        self.style_network = nn.Linear(len(names), self.style_dim)
        self.encoded: list[int] = []  # images in each call of `content`
        self.painted: list[int] = []
        with torch.no_grad():
            self.content_network.weight.copy_(torch.linspace(-1, 1, 64).view(4, 1, 4, 4))
            self.content_network.weight[0] = 1 / 16  # the first channel is the pattern itself
            self.content_network.bias.zero_()
            self.style_network.weight.copy_(torch.eye(len(names)).repeat_interleave(8, dim=0))
            self.style_network.bias.zero_()

    def parameters(self) -> list[nn.Parameter]:
        return [*self.content_network.parameters(), *self.style_network.parameters()]

    def content(self, images: Tensor) -> Tensor:
        self.encoded.append(len(images))
        return self.content_network(images[:, 2:])

    def style(self, images: Tensor) -> Tensor:
        return self.style_network(images[:, : len(self.schema)].mean(dim=(2, 3)))

    def style_mean(self, labels: Tensor) -> Tensor:
        bits = labels.float()
        return torch.where(bits < 0, 0.0, 2 * bits - 1).repeat_interleave(8, dim=1)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self.style_mean(labels)
        return mean + 0.2 * torch.randn(mean.shape, generator=generator)

    def style_labels(self, style: Tensor) -> Tensor:
        return (style.unflatten(1, (-1, 8)).mean(2) > 0).to(torch.int8)

    def translate(self, images: Tensor, content: Tensor, style: Tensor) -> Painted:
        self.painted.append(len(images))
        colours = style.unflatten(1, (-1, 8)).mean(2).clamp(-1, 1)
        blue = F.interpolate(content[:, :1], scale_factor=4.0)
        planes = colours[:, :, None, None].expand(-1, -1, *blue.shape[2:])
        return Painted(torch.cat([planes, blue], dim=1))


def paint(rng: np.random.Generator, labels: NDArray[np.int8], pattern: int, size: int = 32) -> NDArray[np.uint8]:
    """A picture uint8 [size, size, 3]: its colours tell labels int8 [2], its blue stripes tell pattern 0 … 7."""
    image = np.empty((size, size, 3), np.uint8)
    image[..., :2] = np.where(labels == 1, 225, 30) + rng.integers(-25, 26, 2)
    place = np.arange(size)
    wave = np.sin(2 * np.pi * (1 + pattern % 4) * place / size)
    plane = np.broadcast_to(wave[:, None] if pattern < 4 else wave[None], (size, size))
    image[..., 2] = (128 + 90 * plane + rng.normal(0, 8, (size, size))).clip(0, 255)
    return image

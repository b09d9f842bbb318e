"""Networks that are told labels as planes beside the image: INIT's backbone (Cao et al. 2020, Section 3).

Shapes below: B images, H and W multiples of 4, A attributes; a plane is −1 (false), 1 (true) or 0 (not told).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from translation.networks.blocks import InstanceNorm, ResidualBlock, convolution, scaled, upsample


def with_planes(images: Tensor, labels: Tensor) -> Tensor:
    """Images [B, 3, H, W] and a plane for each of labels [B, A] → [B, 3 + A, H, W]."""
    planes = labels.to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])
    return torch.cat([images, planes], dim=1)


class ConditionalGenerator(nn.Module):
    """G: image [B, 3, H, W] and labels [B, A] → image [B, 3, H, W] in [−1, 1]: two halvings, blocks, twice ×2, tanh."""

    def __init__(self, attributes: int, width: float = 1.0, blocks: int = 6) -> None:
        super().__init__()
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        down: list[nn.Module] = []
        for inputs, outputs, kernel, stride in ((3 + attributes, a, 7, 1), (a, b, 4, 2), (b, c, 4, 2)):
            down += [convolution(inputs, outputs, kernel, stride), InstanceNorm(), nn.ReLU(inplace=True)]
        self.down = nn.Sequential(*down, *(ResidualBlock(c) for _ in range(blocks)))
        self.up = nn.ModuleList(
            nn.Sequential(convolution(i, o, 5), InstanceNorm(), nn.ReLU(inplace=True)) for i, o in ((c, b), (b, a))
        )
        self.image = nn.Sequential(convolution(a, 3, 7), nn.Tanh())

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = self.down(with_planes(images, labels))
        for layer in self.up:
            h = layer(upsample(h))
        return self.image(h)  # type: ignore[no-any-return]


class ConditionalDiscriminator(nn.Module):
    """D: image [B, 3, H, W] with labels [B, A] → logits [B, 1, H/2ⁿ, W/2ⁿ] of “real, and of these labels”."""

    def __init__(self, attributes: int, width: float = 1.0, layers: int = 4) -> None:
        super().__init__()
        channels = [3 + attributes, *(scaled(64 * min(2**i, 8), width) for i in range(layers))]
        body: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            body += [convolution(inputs, outputs, 4, 2), nn.LeakyReLU(0.1, inplace=True)]
        self.body = nn.Sequential(*body, nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.body(with_planes(images, labels))  # type: ignore[no-any-return]

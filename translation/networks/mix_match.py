"""The networks of mix-and-match networks (Wang 2020, Tables A.7–A.13): one encoder and decoder a domain or modality.

All encoders give maps of one shape and all decoders take them, so that any encoder can be joined with any decoder.
Shapes below: B images, H and W multiples of 2ⁿ, n pools (3 at 128 px), C = 256·width channels of the latent map at
n = 3, 128·width at 2, 64·width at 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from translation.networks.blocks import InstanceNorm, LayerNorm, convolution, scaled, upsample

Norm = Literal["instance", "layer"]
"""Instance norm takes each channel's level away, which a picture's colours are told by; layer norm keeps it."""
Side = Literal["none", "pooling", "skip"]
"""What a decoder is told beside the latent map: nothing, where each pool found its maximum, or the maps themselves."""


class Latent(NamedTuple):
    """content [B, C, H/2ⁿ, W/2ⁿ]; of each pool, the first one first, `indices` int64 of its maxima [B, c, h, w] (as
    `max_unpool2d` takes them) and `maps` [B, c, 2h, 2w] before it."""

    content: Tensor
    indices: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]

    def rows(self, chosen: Tensor) -> Latent:
        """Some of the batch, by numbers or a mask."""
        indices, maps = (tuple(one[chosen] for one in part) for part in (self.indices, self.maps))
        return Latent(self.content[chosen], indices, maps)


def widths(width: float, pools: int) -> list[int]:
    """The channels before each of so many pools."""
    return [scaled(64 * 2**i, width) for i in range(pools)]


def _normed(inputs: int, outputs: int, kernel: int, norm: Norm) -> list[nn.Module]:
    return [convolution(inputs, outputs, kernel), InstanceNorm() if norm == "instance" else LayerNorm(outputs)]


class ModalBlock(nn.Module):
    """A residual block: conv-norm-ReLU-conv-norm + skip."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        first, second = (_normed(channels, channels, 3, norm) for _ in range(2))
        self.body = nn.Sequential(*first, nn.ReLU(inplace=True), *second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class ModalEncoder(nn.Module):
    """f: [B, `inputs`, H, W] → `Latent`: n times convolution, norm, ReLU, 2×2 max-pool; then residual blocks."""

    def __init__(
        self,
        inputs: int,
        width: float = 1.0,
        blocks: int = 6,
        pools: int = 3,
        kernel: int = 7,
        *,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        channels = [inputs, *widths(width, pools)]
        self.channels = channels[-1]
        self.layers = nn.ModuleList(
            nn.Sequential(*_normed(i, o, kernel, norm), nn.ReLU(inplace=True)) for i, o in itertools.pairwise(channels)
        )
        self.blocks = nn.Sequential(*(ModalBlock(self.channels, norm) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Latent:
        indices, maps = [], []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
            x, where = F.max_pool2d(x, 2, return_indices=True)
            indices.append(where)
        return Latent(self.blocks(x), tuple(indices), tuple(maps))


class ModalDecoder(nn.Module):
    """g: `Latent` → [B, `outputs`, H, W]: residual blocks, then n times ×2 by `side` and a convolution.

    `bounded`: ends in a tanh, for what lies in [−1, 1]; else logits.
    """

    def __init__(
        self,
        outputs: int,
        width: float = 1.0,
        blocks: int = 6,
        pools: int = 3,
        kernel: int = 7,
        *,
        side: Side = "none",
        norm: Norm = "instance",
        bounded: bool = True,
    ) -> None:
        super().__init__()
        channels = widths(width, pools)[::-1]
        self.side, self.bounded = side, bounded
        self.blocks = nn.Sequential(*(ModalBlock(channels[0], norm) for _ in range(blocks)))
        double = 2 if side == "skip" else 1
        self.layers = nn.ModuleList(
            nn.Sequential(*_normed(double * i, o, kernel, norm), nn.ReLU(inplace=True))
            for i, o in itertools.pairwise(channels)
        )
        self.last = convolution(double * channels[-1], outputs, kernel)

    def forward(self, latent: Latent) -> Tensor:
        h: Tensor = self.blocks(latent.content)
        for layer, indices, maps in zip(
            (*self.layers, self.last), latent.indices[::-1], latent.maps[::-1], strict=True
        ):
            if self.side == "pooling":
                h = F.max_unpool2d(h, indices, [2, 2])
            elif self.side == "skip":
                h = torch.cat([upsample(h), maps], dim=1)
            else:
                h = upsample(h)
            h = layer(h)
        return h.tanh() if self.bounded else h


def joined(parts: Sequence[Latent]) -> Latent:
    """Several batches as one."""
    indices, maps = (
        tuple(torch.cat(level) for level in zip(*(part[place] for part in parts), strict=True)) for place in (1, 2)
    )
    return Latent(torch.cat([part.content for part in parts]), indices, maps)


def noisy(latent: Latent, spread: float) -> Latent:
    """The latent with N(0, `spread`²) added to its content, so that a small signal does not come through."""
    if not spread:
        return latent
    return latent._replace(content=latent.content + spread * torch.randn_like(latent.content))

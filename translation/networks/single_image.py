"""Networks for CUT on two single pictures: after StyleGAN2's, without norms, trained on random crops (CUT, Section 4).

As in the authors' code neither noise nor a style enters: the same picture gives the same translation. Left out are the
unit length of the upsampling convolution's weights and the activation behind the last layer (here tanh, so that images
stay in [−1, 1]). Convolutions have weights N(0, 1), scaled at each use (equalised learning rate): `initialise` is not
for them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.errors import UsageError
from translation.networks.blocks import Blur, scaled, upsample

Padding = Literal["reflect", "constant"]
TAPS = (1.0, 3.0, 3.0, 1.0)
GAIN = math.sqrt(2)


class EqualisedConvolution(nn.Module):
    """A convolution whose weights are N(0, 1) and divided by √(fan in) at each use: all layers learn at one rate."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = True,
        mode: Padding = "reflect",
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.stride, self.padding, self.mode = stride, padding, mode

    def forward(self, x: Tensor) -> Tensor:
        if self.padding:
            x = F.pad(x, (self.padding,) * 4, mode=self.mode)
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride)


class EqualisedLinear(nn.Module):
    """A linear layer of the same kind."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class ScaledLeakyReLU(nn.Module):
    """LeakyReLU 0.2 times √2, which keeps the size of what goes through."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2) * GAIN


class SkipBlock(nn.Module):
    """(conv-act-conv-act + skip) / √2, [B, inputs, h, w] → [B, outputs, h, w], or [B, outputs, h/2, w/2] if halved."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool = False, mode: Padding = "reflect") -> None:
        super().__init__()
        first = [EqualisedConvolution(inputs, inputs, 3, padding=1, mode=mode), ScaledLeakyReLU()]
        second: list[nn.Module] = [EqualisedConvolution(inputs, outputs, 3, padding=1, mode=mode)]
        skip: list[nn.Module] = []
        if halve:  # blurred first; the skip, a 1×1 convolution, needs only the places that stay
            second = [Blur(TAPS, padding=2, mode=mode), EqualisedConvolution(inputs, outputs, 3, stride=2)]
            skip = [Blur(TAPS, stride=2, mode=mode)]
        if halve or inputs != outputs:
            skip.append(EqualisedConvolution(inputs, outputs, 1, bias=False))
        self.body = nn.Sequential(*first, *second, ScaledLeakyReLU())
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.skip(x)) / GAIN  # type: ignore[no-any-return]


class SingleImageEncoder(nn.Module):
    """Image [B, 3, H, W] in [−1, 1] → content [B, C, H/2ⁿ, W/2ⁿ]: 1×1-80, then n halvings to C = 80·2ⁿ·width."""

    def __init__(self, width: float = 1.0, halvings: int = 1) -> None:
        super().__init__()
        channels = [scaled(80 * 2**i, width) for i in range(halvings + 1)]
        self.channels, self.factor = channels[-1], 2**halvings
        self.stage_channels = {f"down{i}": c for i, c in enumerate(channels[1:], start=1)}
        self.first = nn.Sequential(EqualisedConvolution(3, channels[0], 1), ScaledLeakyReLU())
        self.down = nn.ModuleList(SkipBlock(i, o, halve=True) for i, o in itertools.pairwise(channels))

    def stages(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """`down1` …: the maps at a half, a quarter … of the image's size."""
        h = self.first(images)
        for name, layer in zip(self.stage_channels, self.down, strict=True):
            h = layer(h)
            yield name, h

    def forward(self, images: Tensor) -> Tensor:
        *_, (_, content) = self.stages(images)
        return content


class SingleImageDecoder(nn.Module):
    """Content [B, C, h, w] → image [B, 3, 2ⁿh, 2ⁿw] in [−1, 1]: residual blocks, n times ×2 and 3×3, 1×1 tanh."""

    def __init__(self, width: float = 1.0, halvings: int = 1, blocks: int = 6) -> None:
        super().__init__()
        channels = [scaled(80 * 2**i, width) for i in range(halvings, -1, -1)]
        self.channels = channels[0]
        self.stage_channels = {f"block{i}": channels[0] for i in range(1, blocks + 1)} | {"image": 3}
        self.blocks = nn.ModuleList(SkipBlock(channels[0], channels[0]) for _ in range(blocks))
        self.up = nn.ModuleList(
            nn.Sequential(EqualisedConvolution(i, o, 3, padding=1), ScaledLeakyReLU())
            for i, o in itertools.pairwise(channels)
        )
        self.image = EqualisedConvolution(channels[-1], 3, 1)

    def stages(self, content: Tensor) -> Iterator[tuple[str, Tensor]]:
        """`block1` … [B, C, h, w], then `image`."""
        h = content
        for i, block in enumerate(self.blocks, start=1):
            h = block(h)
            yield f"block{i}", h
        for layer in self.up:
            h = layer(upsample(h))
        yield "image", torch.tanh(self.image(h))

    def forward(self, content: Tensor) -> Tensor:
        *_, (_, image) = self.stages(content)
        return image


class SingleImageDiscriminator(nn.Module):
    """D: crops [B, 3, size, size] → [B, 1, 1, 1], one answer a crop: halved down to a map of 4 to 7 places a side.

    2048/side·width channels at each size, at most 384·width (as released: 32 at 64 px); no minibatch statistics.
    UsageError: a size that cannot be halved so far.
    """

    def __init__(self, size: int, width: float = 1.0) -> None:
        super().__init__()
        halvings = max(0, (size // 4).bit_length() - 1)
        step = 2**halvings
        if size < 8:
            raise UsageError(f"crops of {size} px are too small to be judged: take 8 px or more")
        if size % step:
            lower = size - size % step
            raise UsageError(f"crops of {size} px cannot be halved {halvings} times: take {lower} or {lower + step} px")
        self.size = size
        sides = [size >> i for i in range(halvings + 1)]
        channels = [scaled(min(384, 2048 // side), width) for side in sides]
        layers: list[nn.Module] = [EqualisedConvolution(3, channels[0], 1), ScaledLeakyReLU()]
        layers += [SkipBlock(i, o, halve=True, mode="constant") for i, o in itertools.pairwise(channels)]
        last = channels[-1]
        layers += [EqualisedConvolution(last, last, 3, padding=1, mode="constant"), ScaledLeakyReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(
            EqualisedLinear(last * sides[-1] ** 2, last), ScaledLeakyReLU(), EqualisedLinear(last, 1)
        )

    def forward(self, crops: Tensor) -> Tensor:
        if crops.shape[2:] != (self.size, self.size):
            raise ValueError(f"crops of {self.size}×{self.size} px are judged, not of {tuple(crops.shape[2:])}")
        return self.head(self.layers(crops).flatten(1))[:, :, None, None]  # type: ignore[no-any-return]

"""The networks of GMM-UNIT (RG-UNIT, Table 8): content and style encoders, AdaIN generator, discriminator.

Shapes below: B images, H = W a multiple of 32, C = 256·width content channels, A attributes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from translation.networks.blocks import (
    AdaINBlock,
    InstanceNorm,
    LayerNorm,
    ResidualBlock,
    Start,
    convolution,
    mlp,
    scaled,
    upsample,
)
from translation.networks.blocks import initialise as initialise_layers

STYLE_PER_ATTRIBUTE = 8
FOLLOWED_RATE = 0.02
"""How much a batch counts in the running mean of what is followed: about the last 50."""


def halved(images: Tensor, times: int) -> Tensor:
    """Images [B, 3, H, W] → [B, 3, H/2ⁿ, W/2ⁿ], means of their pixels."""
    return F.avg_pool2d(images, 2**times) if times else images


def _enlarged(small: Tensor, images: Tensor) -> Tensor:
    """A map [B, c, h, w] at the images' size, bilinear."""
    return F.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)


class ContentEncoder(nn.Module):
    """E_c: image [B, 3, H, W] in [−1, 1] → content [B, C, H/4, W/4], signed.

    `halvings`: of the image halved so many times; each place then stands for as many in the map, which keeps its size.
    """

    def __init__(self, width: float = 1.0, blocks: int = 4, *, halvings: int = 0) -> None:
        super().__init__()
        self.halvings = halvings
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        self.channels = c
        self.stage_channels = {"down1": b, "down2": c} | {f"block{i}": c for i in range(1, blocks + 1)}
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in ((3, a, 7, 1), (a, b, 4, 2), (b, c, 4, 2)):
            layers += [
                convolution(inputs, outputs, kernel, stride),
                InstanceNorm(),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, *(ResidualBlock(c) for _ in range(blocks)))

    def forward(self, images: Tensor) -> Tensor:
        content: Tensor = self.layers(halved(images, self.halvings))
        return F.interpolate(content, scale_factor=2.0**self.halvings, mode="nearest") if self.halvings else content

    def stages(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """`down1`, `down2` (behind their ReLU) and `block1` …: what PatchNCE may read (`networks.patches`)."""
        names, h = iter(self.stage_channels), halved(images, self.halvings)
        for i, layer in enumerate(self.layers, start=1):  # three layers a convolution, one a block
            h = layer(h)
            if i == 6 or i >= 9:
                yield next(names), h


class StyleEncoder(nn.Module):
    """E_s: image [B, 3, H, W] → (μ, log σ²), each [B, 8·A]. No norm: it would take the colour away."""

    def __init__(self, attributes: int, width: float = 1.0, *, halvings: int = 0) -> None:
        super().__init__()
        self.halvings = halvings
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in (
            (3, a, 7, 1),
            (a, b, 4, 2),
            (b, c, 4, 2),
            (c, c, 4, 2),
            (c, c, 4, 2),
        ):
            layers += [convolution(inputs, outputs, kernel, stride), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.mean = nn.Linear(c, STYLE_PER_ATTRIBUTE * attributes)
        self.log_variance = nn.Linear(c, STYLE_PER_ATTRIBUTE * attributes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.layers(halved(images, self.halvings)).mean(dim=(2, 3))
        return self.mean(pooled), self.log_variance(pooled)


class Generator(nn.Module):
    """G: content [B, C, h, w], style [B, 8·A] → unblended image x̃ [B, 3, 4h, 4w] in [−1, 1], mask M [B, 1, 4h, 4w].

    The translation is x̃·M + x·(1 − M). The mask head starts open (small weights, bias +2, so M ≈ 0.88): started at
    0.5 it falls to 0, where copying the input satisfies every loss (`methods.md`, section 1, trap 1).

    `skips`: features of the source image [B, 3, 4h, 4w] at half and at full resolution are added behind each upsampling
    (not in the paper): the content alone cannot give back a picture sharply.
    `halvings`: everything works on the image halved so many times; what it changes there is enlarged and added to the
    source's own pixels, which keep what is finer (not in the paper).
    Buffers: `whole`, 1 while the mask waits and the whole picture is painted; `followed`, the share in [0, 1] of the
    changed attributes that D reads in translations, a running mean (not in the paper).
    """

    whole: Tensor
    followed: Tensor
    later = ("whole", "followed")
    """What runs made before have not: they keep what is set here."""

    def __init__(
        self, attributes: int, width: float = 1.0, blocks: int = 4, *, skips: bool = False, halvings: int = 0
    ) -> None:
        super().__init__()
        self.halvings = halvings
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        self.channels, hidden = c, scaled(256, width)
        self.mlp = mlp(
            STYLE_PER_ATTRIBUTE * attributes, hidden, blocks * 4 * c
        )  # a scale and a shift for each of a block's two norms
        self.blocks = nn.ModuleList(AdaINBlock(c) for _ in range(blocks))
        self.up = nn.ModuleList(
            nn.Sequential(convolution(inputs, outputs, 5), LayerNorm(outputs), nn.ReLU(inplace=True))
            for inputs, outputs in ((c, b), (b, a))
        )
        self.skips = nn.ModuleList([convolution(3, c, 4, 2), convolution(3, b, 3)] if skips else [])
        self.image = convolution(a, 3, 7)
        self.mask = convolution(a, 1, 7)
        self.register_buffer("whole", torch.zeros(()))
        self.register_buffer("followed", torch.zeros(()))

    def forward(self, content: Tensor, style: Tensor, images: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.halvings:
            assert images is not None
            small = halved(images, self.halvings)
            prediction, mask = self._paint(halved(content, self.halvings), style, small)
            return (images + _enlarged(prediction - small, images)).clamp(-1, 1), _enlarged(mask, images)
        return self._paint(content, style, images)

    def used(self, mask: Tensor) -> Tensor:
        """The mask [B, 1, H, W] that translations are blended by: M, or 1 while it waits."""
        return torch.where(self.whole > 0, torch.ones_like(mask), mask)

    @torch.no_grad()
    def wait(self, early: bool, enough: float) -> None:
        """The mask waits while it is early, and after that, if it waited, until `enough` attributes are followed."""
        if early:
            self.whole.fill_(1)
        else:
            self.whole.mul_(self.followed < enough)

    @torch.no_grad()
    def follow(self, right: Tensor, changed: Tensor) -> None:
        """`followed` with the next batch's: so many of the attributes changed are read as wanted (scalars)."""
        share = right / changed.clamp(min=1e-6)
        self.followed.lerp_(torch.where(changed > 0, share, self.followed).float(), FOLLOWED_RATE)

    def _paint(self, content: Tensor, style: Tensor, images: Tensor | None) -> tuple[Tensor, Tensor]:
        h = content
        scales, shifts = self.mlp(style).view(style.shape[0], len(self.blocks), 2, 2, self.channels).unbind(3)
        for i, block in enumerate(self.blocks):
            h = block(h, scales[:, i], shifts[:, i])
        for i, layer in enumerate(self.up):
            h = upsample(h)
            h = layer(h if images is None or not self.skips else h + self.skips[i](images))
        # One convolution for both heads: the same numbers as two, at half the reads of h.
        both = F.conv2d(
            F.pad(h, (3, 3, 3, 3), mode="reflect"),
            torch.cat([self.image.weight, self.mask.weight]),
            torch.cat([self.image.bias, self.mask.bias]),  # type: ignore[list-item]
        )
        return torch.tanh(both[:, :3]), torch.sigmoid(both[:, 3:])


class Judged(NamedTuple):
    """What one scale of D says of images: realness [B, 1, h, w]; attribute logits [B, A]; where it judges by labels,
    how far each attribute speaks for being real, [B, A, h, w]."""

    realness: Tensor
    attributes: Tensor
    matches: Tensor | None = None

    def under(self, labels: Tensor) -> Tensor:
        """Realness [B, 1, h, w] of the images under labels [B, A] in {1, 0, −1 = unknown: does not count}.

        r(x) + Σ ± p_a(x) / √A where D judges by labels (a projection: Miyato and Koyama 2018), else r(x) itself.
        """
        if self.matches is None:
            return self.realness
        signs = (2 * labels.clamp(min=0) - 1) * (labels >= 0)
        weights = signs.to(self.matches.dtype)[:, :, None, None] / math.sqrt(labels.shape[1])
        return self.realness + (self.matches * weights).sum(1, keepdim=True)


class ScaleDiscriminator(nn.Module):
    """One scale of D: image [B, 3, H, W] → real/fake map [B, 1, H/16, W/16], attribute logits [B, A]."""

    def __init__(
        self, size: int, attributes: int, width: float = 1.0, slope: float = 0.1, *, labels: bool = False
    ) -> None:
        super().__init__()
        channels = [3, *(scaled(n, width) for n in (64, 128, 256, 512))]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            layers += [convolution(inputs, outputs, 4, 2), nn.LeakyReLU(slope, inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.realness = nn.Conv2d(channels[-1], 1, 1)
        self.attributes = nn.Conv2d(channels[-1], attributes, size // 16)
        self.matches = nn.Conv2d(channels[-1], attributes, 1) if labels else None

    def forward(self, images: Tensor) -> Judged:
        h = self.layers(images)
        return Judged(
            self.realness(h), self.attributes(h).flatten(1), None if self.matches is None else self.matches(h)
        )


class Discriminator(nn.Module):
    """D: the same network on `scales` halved copies of the image; what each says. `labels`: it judges by labels."""

    def __init__(
        self,
        size: int,
        attributes: int,
        width: float = 1.0,
        scales: int = 1,
        slope: float = 0.1,
        *,
        labels: bool = False,
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            ScaleDiscriminator(size >> i, attributes, width, slope, labels=labels) for i in range(scales)
        )

    def forward(self, images: Tensor) -> list[Judged]:
        return [scale(images if i == 0 else F.avg_pool2d(images, 2**i)) for i, scale in enumerate(self.scales)]


def initialise(network: nn.Module, kind: Start) -> None:
    """`kaiming` (generator, encoders) or `normal` (discriminator) weights; heads of G and E_s start small."""
    initialise_layers(network, kind)
    if isinstance(network, Generator):
        with torch.no_grad():
            network.mask.weight.mul_(0.1)
            nn.init.constant_(network.mask.bias, 2.0)  # type: ignore[arg-type]
            # Tanh saturates under kaiming's scale, and AdaIN should start near plain instance norm.
            network.image.weight.mul_(0.3)
            for parameter in network.mlp[-1].parameters():
                parameter.mul_(0.1)
    if isinstance(network, StyleEncoder):
        with torch.no_grad():
            for head in (network.mean, network.log_variance):
                head.weight.mul_(0.1)
            nn.init.constant_(network.log_variance.bias, -1.386)  # σ starts at the prior's 0.5

"""Networks that are told labels as planes beside the image: INIT's backbone (Cao et al. 2020, Section 3).

Shapes below: B images, H and W multiples of 4, A attributes; a plane is −1 (false), 1 (true) or 0 (not told).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from translation.networks.blocks import (
    InstanceNorm,
    LayerNorm,
    ResidualBlock,
    convolution,
    initialise,
    scaled,
    upsample,
)

MASK_OPEN, MASK_PACE = 2.0, 0.2
"""The mask starts at σ(2) = 0.88 and moves at a fifth of the pace: at the full one it has closed before D knows labels
(measured: .03 after 60 steps of INIT's, .002 after 220)."""


def with_planes(images: Tensor, labels: Tensor) -> Tensor:
    """Images [B, 3, H, W] and a plane for each of labels [B, A] → [B, 3 + A, H, W]."""
    planes = labels.to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])
    return torch.cat([images, planes], dim=1)


class LabelledEncoder(nn.Module):
    """Image [B, 3, H, W] and planes [B, A] → content [B, C, H/4, W/4], signed, C = 256·width: 7×7-64, twice 4×4 by 2,
    residual blocks.

    The first convolution has no norm behind it. A plane is a constant, after a convolution it is one still, and an
    instance norm takes a constant out: the labels would be gone (measured: outputs for all labels the same to 1e-5).
    """

    def __init__(self, attributes: int, width: float = 1.0, blocks: int = 6) -> None:
        super().__init__()
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        self.channels, self.attributes = c, attributes
        layers: list[nn.Module] = [convolution(3 + attributes, a, 7), nn.ReLU(inplace=True)]
        for inputs, outputs in ((a, b), (b, c)):
            layers += [convolution(inputs, outputs, 4, 2), InstanceNorm(), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, *(ResidualBlock(c) for _ in range(blocks)))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.layers(with_planes(images, labels))  # type: ignore[no-any-return]


class Painter(nn.Module):
    """Features [B, C, h, w] → prediction x̃ [B, 3, 4h, 4w] in [−1, 1] and, where there is one, mask M [B, 1, 4h, 4w].

    Twice ×2 and a 5×5 convolution with layer norm (an instance norm would take the colour away), then 7×7 heads. With
    a mask the translation is x̃·M + x·(1 − M); it starts open.
    """

    def __init__(self, width: float = 1.0, *, mask: bool = False) -> None:
        super().__init__()
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        self.up = nn.ModuleList(
            nn.Sequential(convolution(i, o, 5), LayerNorm(o), nn.ReLU(inplace=True)) for i, o in ((c, b), (b, a))
        )
        self.heads = convolution(a, 4 if mask else 3, 7)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        h = features
        for layer in self.up:
            h = layer(upsample(h))
        painted = self.heads(h)
        mask = torch.sigmoid(MASK_OPEN + MASK_PACE * painted[:, 3:]) if painted.shape[1] > 3 else None
        return torch.tanh(painted[:, :3]), mask


def initialise_painting(network: nn.Module) -> None:
    """Kaiming's first weights for a generator with a `Painter`, whose heads start small."""
    initialise(network, "kaiming")
    with torch.no_grad():
        for heads in (module.heads for module in network.modules() if isinstance(module, Painter)):
            heads.weight.mul_(0.3)  # tanh saturates under kaiming's scale


class ConditionalGenerator(nn.Module):
    """G: image [B, 3, H, W] and labels [B, A] → what `Painter` gives, [B, 3, H, W] and a mask or None."""

    def __init__(self, attributes: int, width: float = 1.0, blocks: int = 6, *, mask: bool = False) -> None:
        super().__init__()
        self.encoder = LabelledEncoder(attributes, width, blocks)
        self.painter = Painter(width, mask=mask)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.painter(self.encoder(images, labels))  # type: ignore[no-any-return]


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

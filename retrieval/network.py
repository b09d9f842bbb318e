"""The embedding network (RG-UNIT, Table 5): convolutions squeeze the content to 4×4, then an MLP joins the style.

The table is for 128 px images; other sizes keep its layers and drop strides where a map would fall under 4×4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.errors import RgunitError

if TYPE_CHECKING:
    from retrieval.config import Norm, RetrievalConfig

SMALLEST = 4
"""Side of the last content map: instance norm over a 1×1 map would erase it."""


def strides(content_size: int) -> tuple[int, int, int]:
    """Strides of the three squeezing convolutions: 2 while the output stays at least 4×4, else 1.

    32 → (2, 2, 2), as Table 5; 16 → (2, 2, 1); 8 → (2, 1, 1); 4 → (1, 1, 1).
    """
    if content_size < SMALLEST:
        raise RgunitError(
            f"content of {content_size}×{content_size} is too small to embed: "
            f"at least {SMALLEST}×{SMALLEST} is needed (images of 32 px or more)"
        )
    chosen, side = [], content_size
    for _ in range(3):
        stride = 2 if side // 2 >= SMALLEST else 1
        side //= stride
        chosen.append(stride)
    return chosen[0], chosen[1], chosen[2]


class EmbeddingNetwork(nn.Module):
    """content [B, C, h, h], style [B, S] → embedding [B, dim], not normalised: RG-UNIT, Table 5.

    Three pairs of convolutions (3×3 at stride 1, then 4×4 at stride 2 or, where `strides` says 1, 3×3),
    each with norm and ReLU; pooled to 4×4; flattened beside the style; two hidden linear layers; dropout
    before the last.
    """

    def __init__(
        self,
        content_channels: int,
        content_size: int,
        style_dim: int,
        *,
        widths: tuple[int, int, int] = (128, 64, 32),
        hidden: int = 512,
        dim: int = 100,
        dropout: float = 0.1,
        norm: Norm = "instance",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.normalize = dim, normalize
        self.convolutions = squeeze(content_channels, content_size, widths, norm)
        self.mlp = nn.Sequential(
            nn.Linear(widths[2] * SMALLEST**2 + style_dim, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
        )

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        squeezed: Tensor = self.convolutions(content)  # [B, widths[2], 4, 4]
        embedded: Tensor = self.mlp(torch.cat([squeezed.flatten(1), style], dim=1))
        return F.normalize(embedded, dim=1) if self.normalize else embedded


class PartsNetwork(nn.Module):
    """content [B, C, h, h], style [B, S] → embedding [B, dim + S]: a content vector and a style vector side by side.

    Both have length 1 before the weights √w and √(1 − w) (w: `content_weight`), so a squared distance is the weighted
    sum of the two parts'. The content head squeezes as Table 5 does; the style head starts as the identity.
    `labels` other attributes are read off the content vector in training only.
    """

    def __init__(
        self,
        content_channels: int,
        content_size: int,
        style_dim: int,
        *,
        widths: tuple[int, int, int] = (128, 64, 32),
        hidden: int = 512,
        dim: int = 100,
        dropout: float = 0.1,
        norm: Norm = "instance",
        content_weight: float = 0.5,
        labels: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.content_dim = dim + style_dim, dim
        self.weights = content_weight**0.5, (1 - content_weight) ** 0.5
        self.convolutions = squeeze(content_channels, content_size, widths, norm)
        self.content_head = nn.Sequential(
            nn.Linear(widths[2] * SMALLEST**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
        )
        self.style_head = nn.Linear(style_dim, style_dim)
        nn.init.eye_(self.style_head.weight)
        nn.init.zeros_(self.style_head.bias)
        self.labels = nn.Linear(dim, labels) if labels else None

    def content_vector(self, content: Tensor) -> Tensor:
        """content [B, C, h, h] → [B, dim] of length 1."""
        squeezed: Tensor = self.convolutions(content)
        return F.normalize(self.content_head(squeezed.flatten(1)).float(), dim=1)

    def style_vector(self, style: Tensor) -> Tensor:
        """style [B, S] → [B, S] of length 1."""
        return F.normalize(self.style_head(style).float(), dim=1)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        parts = self.content_vector(content) * self.weights[0], self.style_vector(style) * self.weights[1]
        return torch.cat(parts, dim=1)


Network = EmbeddingNetwork | PartsNetwork


def squeeze(channels: int, size: int, widths: tuple[int, int, int], norm: Norm) -> nn.Sequential:
    """content [B, C, h, h] → [B, widths[2], 4, 4]: the convolutions of Table 5."""
    layers: list[nn.Module] = []
    for width, stride in zip(widths, strides(size), strict=True):
        layers += [nn.Conv2d(channels, width, 3, 1, 1), _norm(norm, width), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(width, width, 2 + stride, stride, 1), _norm(norm, width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(SMALLEST))


def _norm(kind: Norm, channels: int) -> nn.Module:
    """Instance norm, or layer norm over (C, h, w) with a scale and shift a channel."""
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.GroupNorm(1, channels)


def make_network(
    config: RetrievalConfig, *, content_channels: int, content_size: int, style_dim: int, labels: int = 0
) -> Network:
    """The network that a configuration describes, for content [·, C, h, h] and style [·, S]."""
    widths, norm = config.widths, config.norm
    if config.objective == "parts":
        return PartsNetwork(
            content_channels,
            content_size,
            style_dim,
            widths=widths,
            hidden=config.hidden,
            dim=config.dim,
            dropout=config.dropout,
            norm=norm,
            content_weight=config.content_weight,
            labels=labels,
        )
    return EmbeddingNetwork(
        content_channels,
        content_size,
        style_dim,
        widths=widths,
        hidden=config.hidden,
        dim=config.dim,
        dropout=config.dropout,
        norm=norm,
        normalize=config.normalize,
    )


def shapes_of(weights: Mapping[str, Tensor], config: RetrievalConfig) -> dict[str, int]:
    """What `make_network` needs to know beside the configuration, from a network's own weights."""
    style = "style_head" if config.objective == "parts" else "mlp.0"
    labels = weights.get("labels.weight")
    taken = 0 if config.objective == "parts" else config.widths[2] * SMALLEST**2
    return {
        "content_channels": weights["convolutions.0.weight"].shape[1],
        "style_dim": weights[f"{style}.weight"].shape[1] - taken,
        "labels": 0 if labels is None else len(labels),
    }

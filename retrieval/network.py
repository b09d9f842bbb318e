"""The embedding network (RG-UNIT, Table 5): convolutions squeeze the content to 4×4, then an MLP joins the style.

The table is for 128 px images; other sizes keep its layers and drop strides where a map would fall under 4×4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

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
    ) -> None:
        super().__init__()
        self.dim = dim
        layers: list[nn.Module] = []
        channels = content_channels
        for width, stride in zip(widths, strides(content_size), strict=True):
            layers += [nn.Conv2d(channels, width, 3, 1, 1), _norm(norm, width), nn.ReLU(inplace=True)]
            layers += [
                nn.Conv2d(width, width, 2 + stride, stride, 1),
                _norm(norm, width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(SMALLEST))
        self.mlp = nn.Sequential(
            nn.Linear(channels * SMALLEST**2 + style_dim, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
        )

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        squeezed: Tensor = self.convolutions(content)  # [B, widths[2], 4, 4]
        return self.mlp(torch.cat([squeezed.flatten(1), style], dim=1))  # type: ignore[no-any-return]


def _norm(kind: Norm, channels: int) -> nn.Module:
    """Instance norm, or layer norm over (C, h, w) with a scale and shift a channel."""
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.GroupNorm(1, channels)


def make_network(
    config: RetrievalConfig, *, content_channels: int, content_size: int, style_dim: int
) -> EmbeddingNetwork:
    """The network that a configuration describes, for content [·, C, h, h] and style [·, S]."""
    return EmbeddingNetwork(
        content_channels,
        content_size,
        style_dim,
        widths=config.widths,
        hidden=config.hidden,
        dim=config.dim,
        dropout=config.dropout,
        norm=config.norm,
    )

"""The embedding network (RG-UNIT, Table 5): convolutions squeeze the content to 4×4, then an MLP joins the style.

The table is for 128 px images; other sizes keep its layers and drop strides where a map would fall under 4×4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.errors import RgunitError

if TYPE_CHECKING:
    from retrieval.config import Norm, RetrievalConfig

WHITENED = 8
"""Side to which content is pooled before it is whitened."""
FLAT = 1e-3
"""Share of the largest standard deviation under which a direction is left out when content is whitened."""
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
        self.dim, self.style_dim, self.normalize = dim, style_dim, normalize
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
    """content [B, C, h, h], style [B, S] → embedding [B, c + S]: a content vector and the style side by side.

    Content is pooled to 8×8, whitened to `components` principal components (`fit`), and read by a small MLP into `dim`
    numbers, or with `labels` into the probabilities of so many other attributes less their means. Both parts have a
    mean squared distance of about 2 before the weights √w and √(1 − w) (w: `content_weight`), so a squared distance
    is late fusion of the two. Without a style (S = 0) the embedding is the content vector, of length 1.
    """

    def __init__(
        self,
        content_channels: int,
        content_size: int,
        style_dim: int,
        *,
        hidden: int = 512,
        dim: int = 100,
        components: int = 512,
        content_weight: float = 0.1,
        labels: int = 0,
    ) -> None:
        super().__init__()
        self.content_dim, self.style_dim, self.labels = labels or dim, style_dim, labels
        self.dim, self.side = self.content_dim + style_dim, min(WHITENED, content_size)
        self.weights = (content_weight**0.5, (1 - content_weight) ** 0.5) if style_dim else (1.0, 0.0)
        self.whiten = nn.Linear(content_channels * self.side**2, components).requires_grad_(False)
        self.head = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(components, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, self.content_dim),
        )
        self.register_buffer("prior", torch.full((labels,), 0.5))
        self.register_buffer("style_scale", torch.ones(style_dim))
        self.prior: Tensor
        self.style_scale: Tensor

    @torch.no_grad()
    def fit(self, contents: Iterable[Tensor], styles: Tensor, labels: Tensor) -> None:
        """Fit what training leaves alone, from batches of content [b, C, h, h], styles [n, S], labels int8 [n, O]."""
        pooled = torch.cat([self.pooled(content.float()) for content in contents])
        components = self.whiten.out_features
        middle = pooled.mean(dim=0)
        _, values, axes = torch.pca_lowrank(pooled - middle, q=min(components, *pooled.shape), center=False, niter=2)
        varied = values > FLAT * values[0]  # along the others even rounding would be blown up
        scale = torch.where(varied, len(pooled) ** 0.5 / values.clamp(min=1e-12), 0.0)
        weight = torch.zeros_like(self.whiten.weight)
        weight[: len(values)] = (axes * scale).T
        self.whiten.weight.copy_(weight)
        self.whiten.bias.copy_(-(weight @ middle.to(weight)))
        if self.style_dim:
            self.style_scale.fill_(styles.var(dim=0).sum().sqrt().clamp(min=1e-6))
        if self.labels:
            known = (labels >= 0).float()
            self.prior.copy_(((labels == 1).float().sum(dim=0) + 1) / (known.sum(dim=0) + 2))

    def pooled(self, content: Tensor) -> Tensor:
        """content [B, C, h, h] → [B, C·8·8]."""
        return F.adaptive_avg_pool2d(content, self.side).flatten(1)

    def read(self, content: Tensor) -> Tensor:
        """What the MLP says of content [B, C, h, h]: [B, dim], or the logits of other attributes."""
        said: Tensor = self.head(self.whiten(self.pooled(content)))
        return said

    def content_vector(self, content: Tensor) -> Tensor:
        """content [B, C, h, h] → [B, c] of length 1."""
        said = self.read(content).float()
        return F.normalize(said.sigmoid() - self.prior if self.labels else said, dim=1)

    def style_vector(self, style: Tensor) -> Tensor:
        """style [B, S], scaled."""
        return style.float() / self.style_scale

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        parts = self.content_vector(content) * self.weights[0], self.style_vector(style) * self.weights[1]
        return torch.cat(parts, dim=1)


Network = EmbeddingNetwork | PartsNetwork


def content_vector(network: Network, content: Tensor) -> Tensor:
    """content [B, C, h, h] → [B, ·] of length 1: by the network's own head, else pooled to 2×2 and flattened."""
    head = getattr(network, "content_vector", None)
    vectors: Tensor = F.adaptive_avg_pool2d(content, 2).flatten(1) if head is None else head(content)
    return F.normalize(vectors.float(), dim=1)


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
    config: RetrievalConfig,
    *,
    content_channels: int,
    content_size: int,
    style_dim: int,
    labels: int = 0,
    components: int | None = None,
) -> Network:
    """The network that a configuration describes, for content [·, C, h, h] and style [·, S]."""
    if config.objective == "parts":
        return PartsNetwork(
            content_channels,
            content_size,
            style_dim,
            hidden=config.hidden,
            dim=config.dim,
            components=components or config.components,
            content_weight=config.content_weight,
            labels=labels,
        )
    return EmbeddingNetwork(
        content_channels,
        content_size,
        style_dim,
        widths=config.widths,
        hidden=config.hidden,
        dim=config.dim,
        dropout=config.dropout,
        norm=config.norm,
        normalize=config.normalize,
    )


def shapes_of(weights: Mapping[str, Tensor], config: RetrievalConfig, content_size: int) -> dict[str, int]:
    """What `make_network` needs to know beside the configuration, from a network's own weights."""
    if config.objective == "parts":
        whiten, side = weights["whiten.weight"], min(WHITENED, content_size)
        return {
            "content_channels": whiten.shape[1] // side**2,
            "style_dim": len(weights["style_scale"]),
            "labels": len(weights["prior"]),
            "components": len(whiten),
        }
    return {
        "content_channels": weights["convolutions.0.weight"].shape[1],
        "style_dim": weights["mlp.0.weight"].shape[1] - config.widths[2] * SMALLEST**2,
    }

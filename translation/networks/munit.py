"""The networks of MUNIT for many domains (Huang et al. 2018; thesis, Section 5.5): one encoder and one decoder for all,
told the domain beside the style; and the content encoder with max-pooling whose indices the decoder may use.

Shapes below: B images, H = W multiples of 32, C = 256·width content channels, A attributes, Z numbers of style.
"""

from __future__ import annotations

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

Places = tuple[Tensor, ...]
"""Where each maximum of an encoder's pools lay, int64 [B, c, h, w] a pool, the first pool first."""


class PoolingEncoder(nn.Module):
    """E_c with two max-pools in place of strides: image [B, 3, H, W] → content [B, C, H/4, W/4], signed."""

    def __init__(self, width: float = 1.0, blocks: int = 4) -> None:
        super().__init__()
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        self.channels = c
        self.layers = nn.ModuleList(
            nn.Sequential(convolution(inputs, outputs, kernel), InstanceNorm(), nn.ReLU(inplace=True))
            for inputs, outputs, kernel in ((3, a, 7), (a, b, 3), (b, c, 3))
        )
        self.blocks = nn.Sequential(*(ResidualBlock(c) for _ in range(blocks)))

    def forward(self, images: Tensor) -> Tensor:
        return self.placed(images)[0]

    def placed(self, images: Tensor) -> tuple[Tensor, Places]:
        """The content, and where the maxima of its pools lay."""
        h, places = self.layers[0](images), []
        for layer in self.layers[1:]:
            h, place = F.max_pool2d(layer(h), 2, return_indices=True)
            places.append(place)
        return self.blocks(h), tuple(places)


class VectorEncoder(nn.Module):
    """E_s: image [B, 3, H, W] → style [B, Z], which training brings to N(0, I). No norm: it would take colour away."""

    def __init__(self, numbers: int, width: float = 1.0) -> None:
        super().__init__()
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in ((3, a, 7, 1), (a, b, 4, 2), (b, c, 4, 2), (c, c, 4, 2), (c, c, 4, 2)):
            layers += [convolution(inputs, outputs, kernel, stride), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.style = nn.Linear(c, numbers)

    def forward(self, images: Tensor) -> Tensor:
        return self.style(self.layers(images).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class DomainDecoder(nn.Module):
    """G: content [B, C, h, w], planes and style [B, A + Z] → image [B, 3, 4h, 4w] in [−1, 1], by AdaIN.

    `pooling`: grows by max-unpooling at the places that the encoder's maxima lay in, instead of bilinear upsampling.
    """

    def __init__(self, numbers: int, width: float = 1.0, blocks: int = 4, *, pooling: bool = False) -> None:
        super().__init__()
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        self.channels, self.pooling, hidden = c, pooling, scaled(256, width)
        self.mlp = mlp(numbers, hidden, blocks * 4 * c)  # a scale and a shift for each of a block's two norms
        self.blocks = nn.ModuleList(AdaINBlock(c) for _ in range(blocks))
        self.up = nn.ModuleList(
            nn.Sequential(convolution(inputs, outputs, 5), LayerNorm(outputs), nn.ReLU(inplace=True))
            for inputs, outputs in ((c, b), (b, a))
        )
        self.image = convolution(a, 3, 7)

    def forward(self, content: Tensor, style: Tensor, places: Places = ()) -> Tensor:
        h = content
        scales, shifts = self.mlp(style).view(len(style), len(self.blocks), 2, 2, self.channels).unbind(3)
        for i, block in enumerate(self.blocks):
            h = block(h, scales[:, i], shifts[:, i])
        for i, layer in enumerate(self.up):
            h = layer(F.max_unpool2d(h, places[-1 - i], [2, 2]) if self.pooling else upsample(h))
        return torch.tanh(self.image(h))


def initialise(network: nn.Module, kind: Start) -> None:
    """`kaiming` or `normal` weights; heads of G start small: tanh saturates, and AdaIN starts near a plain norm."""
    initialise_layers(network, kind)
    if isinstance(network, DomainDecoder):
        with torch.no_grad():
            network.image.weight.mul_(0.3)
            for parameter in network.mlp[-1].parameters():
                parameter.mul_(0.1)

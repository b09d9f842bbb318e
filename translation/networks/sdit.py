"""The networks of SDIT (Wang et al. 2019; `methods.md`, section 6), behind `conditional.LabelledEncoder`.

A generator whose norms take scale and shift from noise, and which attends to where it changes anything; a discriminator
that reads labels and noise off an image.

Shapes below: B images, H and W multiples of 4, A attributes, Z numbers of noise, C = 256·width content channels.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from translation.networks.blocks import AdaINBlock, ResidualBlock, convolution, mlp, scaled
from translation.networks.conditional import Painter


class AttentiveGenerator(nn.Module):
    """G: content e [B, C, h, w] and noise [B, Z] → x̃ [B, 3, 4h, 4w] in [−1, 1], mask (`Painter`), attention a
    [B, C, h, w] in [0, 1].

    h = (1 − a)·e + a·f, f of residual blocks with conditional norms, a of residual blocks, a convolution and a sigmoid.
    The norms' numbers come from one MLP that has a pair of its own for every norm (the released code shares one by
    accident). `norms=False` and `attention=False` are the ablations of the thesis' Table 6.1: then the norms are plain
    and noise enters as planes beside the content, and h = f.
    """

    def __init__(
        self,
        noise: int,
        width: float = 1.0,
        blocks: int = 6,
        *,
        norms: bool = True,
        attention: bool = True,
        mask: bool = False,
    ) -> None:
        super().__init__()
        c = scaled(256, width)
        self.channels, self.norms = c, norms
        self.blocks = nn.ModuleList(AdaINBlock(c) for _ in range(blocks))
        hidden = scaled(256, width)
        if norms:
            self.mlp = mlp(noise, hidden, blocks * 4 * c)
        else:
            # A ReLU behind it: the blocks' norms would take constants out again, and noise would change nothing.
            self.enter = nn.Sequential(convolution(c + noise, c, 3), nn.ReLU(inplace=True))
        self.attend: nn.Module | None = None
        if attention:
            self.attend = nn.Sequential(ResidualBlock(c), ResidualBlock(c), convolution(c, c, 3), nn.Sigmoid())
        self.painter = Painter(width, mask=mask)

    def forward(self, content: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        shape = noise.shape[0], len(self.blocks), 2, 2, self.channels
        h = content
        if self.norms:
            scales, shifts = self.mlp(noise).view(shape).unbind(3)
        else:
            planes = noise.to(h.dtype)[:, :, None, None].expand(-1, -1, *h.shape[2:])
            h = self.enter(torch.cat([h, planes], dim=1))
            scales = shifts = h.new_zeros(shape[:3] + shape[4:])
        for i, block in enumerate(self.blocks):
            h = block(h, scales[:, i], shifts[:, i])
        attention = torch.ones_like(h) if self.attend is None else self.attend(content)
        return *self.painter(torch.lerp(content, h, attention)), attention


class ReadingDiscriminator(nn.Module):
    """D: image [B, 3, size, size] → realness [B, 1, h, w], attribute logits [B, A], the noise it was made with [B, Z].

    4×4 convolutions by 2, six of them at 128 px: down to a map of 2 to 3 places a side.
    """

    def __init__(self, size: int, attributes: int, noise: int, width: float = 1.0) -> None:
        super().__init__()
        layers = max(1, size.bit_length() - 2)  # to 2×2, at most six
        channels = [3, *(scaled(64 * min(2**i, 16), width) for i in range(min(6, layers)))]
        body: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            body += [convolution(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.01, inplace=True)]
        side = size >> (len(channels) - 1)
        self.body = nn.Sequential(*body)
        self.realness = nn.Conv2d(channels[-1], 1, 3, padding=1)
        self.attributes = nn.Conv2d(channels[-1], attributes, side)
        self.noise = nn.Conv2d(channels[-1], noise, side)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.body(images)
        return self.realness(h), self.attributes(h).flatten(1), self.noise(h).flatten(1)

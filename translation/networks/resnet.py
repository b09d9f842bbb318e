"""The networks of CUT: a ResNet generator in two parts, and a discriminator of patches (CUT, Section 3 and appendix).

Maps are blurred before every second place is dropped, and again after places are put in between. Shapes below: B
images, H and W multiples of 4 and at least 8 (not only squares), C = 256·width content channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from index_store.errors import UsageError
from translation.networks.blocks import Blur, InstanceNorm, ResidualBlock, convolution, scaled, upsample

BINOMIAL = (1.0, 2.0, 1.0)
SMALLEST_MAP = 2  # answers of the discriminator to a side: one alone has no norm before it


class ResnetEncoder(nn.Module):
    """Image [B, 3, H, W] in [−1, 1] → content [B, C, H/4, W/4], not negative: 7×7-64, then twice 3×3 and a halving."""

    factor = 4  # how many pixels a place of the content stands for, to a side

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        self.channels = c
        self.stage_channels = {"down1": b, "down2": c}
        self.first = nn.Sequential(convolution(3, a, 7), InstanceNorm(), nn.ReLU(inplace=True))
        self.down = nn.ModuleList(
            nn.Sequential(convolution(i, o, 3), InstanceNorm(), nn.ReLU(inplace=True), Blur(BINOMIAL, stride=2))
            for i, o in ((a, b), (b, c))
        )

    def stages(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """`down1` and `down2`: the maps at a half and a quarter of the image's size."""
        h = self.first(images)
        for name, layer in zip(self.stage_channels, self.down, strict=True):
            h = layer(h)
            yield name, h

    def forward(self, images: Tensor) -> Tensor:
        *_, (_, content) = self.stages(images)
        return content


class ResnetDecoder(nn.Module):
    """Content [B, C, h, w] → image [B, 3, 4h, 4w] in [−1, 1]: residual blocks, twice ×2 and 3×3, 7×7 tanh.

    ×2 is bilinear: the same numbers as the [1, 3, 3, 1] filter over zeros put in between, as the authors do it.
    """

    def __init__(self, width: float = 1.0, blocks: int = 9) -> None:
        super().__init__()
        a, b, c = (scaled(n, width) for n in (64, 128, 256))
        self.channels = c
        self.stage_channels = {f"block{i}": c for i in range(1, blocks + 1)} | {"image": 3}
        self.blocks = nn.ModuleList(ResidualBlock(c) for _ in range(blocks))
        self.up = nn.ModuleList(
            nn.Sequential(convolution(i, o, 3), InstanceNorm(), nn.ReLU(inplace=True)) for i, o in ((c, b), (b, a))
        )
        self.image = nn.Sequential(convolution(a, 3, 7), nn.Tanh())

    def parts(self) -> list[Callable[[Tensor], Tensor]]:
        """The network cut into maps that are made of one another: each block, then what makes the image.

        What a part gives at a place depends, norms apart, on at most 3 places around it in what it is given.
        """
        return [*self.blocks, self._draw]

    def stages(self, content: Tensor) -> Iterator[tuple[str, Tensor]]:
        """`block1` … [B, C, h, w], then `image`."""
        h = content
        for name, part in zip(self.stage_channels, self.parts(), strict=True):
            h = part(h)
            yield name, h

    def _draw(self, h: Tensor) -> Tensor:
        """Twice ×2 and 3×3, then 7×7 and tanh."""
        for layer in self.up:
            h = layer(upsample(h))
        image: Tensor = self.image(h)
        return image

    def forward(self, content: Tensor) -> Tensor:
        *_, (_, image) = self.stages(content)
        return image


class PatchDiscriminator(nn.Module):
    """D: image [B, 3, H, W] → real/fake map [B, 1, H/2ⁿ − 2, W/2ⁿ − 2], one answer for each 70×70 patch at n = 3.

    4×4 convolutions 64, 128, 256 (`layers` of them, each halved after a blur), 512, 1; instance norm but in the first
    and last, LeakyReLU 0.2, zeros around maps as in the authors' code. `size`: the shorter side of the images that it
    judges; halvings that leave fewer than 2×2 answers are left out (none at 32 px). `layers` tells how many are in use.
    """

    def __init__(self, width: float = 1.0, layers: int = 3, size: int | None = None) -> None:
        super().__init__()
        self.layers = layers if size is None else fitting_layers(size, layers)
        channels = [scaled(64 * min(2**i, 8), width) for i in range(self.layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for inputs, outputs in itertools.pairwise(channels):
            body += [
                Blur(BINOMIAL, stride=2),
                nn.Conv2d(inputs, outputs, 4, padding=1),
                InstanceNorm(),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.body = nn.Sequential(*body, nn.Conv2d(channels[-1], 1, 4, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)  # type: ignore[no-any-return]


def fitting_layers(size: int, layers: int) -> int:
    """How many of `layers` halvings leave at least 2×2 answers of a `size`×`size` image. UsageError where none does."""
    for fewer in range(layers, 0, -1):
        if (size >> fewer) - 2 >= SMALLEST_MAP:
            return fewer
    raise UsageError(f"images of {size} px are too small for a discriminator of patches: take 8 px or more")

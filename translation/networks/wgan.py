"""The ResNets of WGAN-GP (Gulrajani et al. 2017, appendix), as TransferGAN takes them, and MineGAN's miners.

Shapes below: B images, Z numbers of noise, K classes (1 where nothing is conditioned on), size a power of 2. At 64 px
there are four residual blocks around 4×4 maps; at 32 px three; above 64 px maps start larger.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from translation.networks.blocks import LayerNorm, scaled

WIDTHS = (64, 128, 256, 512, 512)
"""Channels beside an image of full size, and after each halving."""
MINIBATCHES = 1000  # over which a selector's probabilities are averaged


def halvings(size: int) -> int:
    """How often a size in pixels is halved: down to 4×4, at most four times."""
    return min(len(WIDTHS) - 1, size.bit_length() - 3)


class ClassNorm(nn.Module):
    """Batch norm with a scale and a shift of its own for each of K classes: weight and bias [K, C]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.weight = nn.Parameter(torch.ones(classes, channels))
        self.bias = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:  # [B, C, h, w], shares of the classes [B, K]
        scale, shift = classes @ self.weight, classes @ self.bias
        return self.norm(x) * scale[:, :, None, None] + shift[:, :, None, None]  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """norm-ReLU-×2-conv-norm-ReLU-conv beside ×2-1×1: [B, C, h, w] → [B, D, 2h, 2w], nearest neighbours doubled."""

    def __init__(self, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList((ClassNorm(inputs, classes), ClassNorm(outputs, classes)))
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        h = self.first(F.interpolate(F.relu(self.norms[0](x, classes)), scale_factor=2))
        h = self.second(F.relu(self.norms[1](h, classes)))
        return h + F.interpolate(self.skip(x), scale_factor=2)  # type: ignore[no-any-return]


class DownBlock(nn.Module):
    """LN-ReLU-conv-LN-ReLU-conv-½ beside ½-1×1: [B, C, h, w] → [B, D, h/2, w/2], means of four places."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList((LayerNorm(inputs), LayerNorm(inputs)))
        self.first = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.relu(self.norms[0](x)))
        h = self.second(F.relu(self.norms[1](h)))
        return F.avg_pool2d(h, 2) + self.skip(F.avg_pool2d(x, 2))  # type: ignore[no-any-return]


class ResNetGenerator(nn.Module):
    """G: noise [B, Z] and shares of the classes [B, K] → images [B, 3, size, size] in [−1, 1].

    `seen` int64 [K]: how many images of each class it was trained with.
    """

    seen: Tensor

    def __init__(self, size: int, noise: int = 128, width: float = 1.0, classes: int = 1) -> None:
        super().__init__()
        channels = [scaled(c, width) for c in reversed(WIDTHS[: halvings(size) + 1])]
        self.noise, self.classes, self.side = noise, classes, size >> halvings(size)
        self.first = nn.Linear(noise, channels[0] * self.side**2)
        self.blocks = nn.ModuleList(UpBlock(i, o, classes) for i, o in itertools.pairwise(channels))
        self.norm = ClassNorm(channels[-1], classes)
        self.image = nn.Conv2d(channels[-1], 3, 3, padding=1)
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.int64))

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        h = self.first(noise).view(len(noise), -1, self.side, self.side)
        for block in self.blocks:
            h = block(h, classes)
        return torch.tanh(self.image(F.relu(self.norm(h, classes))))


class ResNetCritic(nn.Module):
    """D: images [B, 3, size, size] → values [B] without bounds, and logits of the classes [B, K] where K > 1."""

    def __init__(self, size: int, width: float = 1.0, classes: int = 1) -> None:
        super().__init__()
        channels = [scaled(c, width) for c in WIDTHS[: halvings(size) + 1]]
        self.first = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.Sequential(*(DownBlock(i, o) for i, o in itertools.pairwise(channels)))
        features = channels[-1] * (size >> halvings(size)) ** 2
        self.value = nn.Linear(features, 1)
        self.classes = nn.Linear(features, classes) if classes > 1 else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        h = self.blocks(self.first(images)).flatten(1)
        return self.value(h).squeeze(1), None if self.classes is None else self.classes(h)


class Miner(nn.Module):
    """M: noise [B, Z] → a generator's noise [B, Y], and its shares of the classes [B, K] (MineGAN, Sections 3.2, 3.3).

    Fully connected layers with ReLU and pixel norm between them; a second one of these for the classes where K > 1,
    of which only those come that the generator has `seen`.
    """

    hidden: Tensor

    def __init__(self, noise: int, outputs: int, classes: int = 1, layers: int = 4) -> None:
        super().__init__()
        self.noise = noise
        self.latent = _perceptron(noise, outputs, layers)
        self.classes = _perceptron(noise, classes, layers) if classes > 1 else None
        self.register_buffer("hidden", torch.zeros(classes))

    def hide(self, seen: Tensor) -> None:
        """Leave classes out that a generator has not seen, int64 [K]."""
        self.hidden.copy_(torch.where(seen > 0, 0.0, -1e9))

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.latent(noise)
        if self.classes is None:
            return latent, torch.ones(len(noise), 1, device=noise.device)
        return latent, (self.classes(noise) + self.hidden).softmax(1)


class PixelNorm(nn.Module):
    """Rows [B, C] of mean square 1 (Karras et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def _perceptron(inputs: int, outputs: int, layers: int) -> nn.Sequential:
    """So many linear layers; like its input, its output is about N(0, 1) at the start."""
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        linear = nn.Linear(inputs, inputs)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.ReLU(), PixelNorm()]
    last = nn.Linear(inputs, outputs)
    nn.init.normal_(last.weight, 0.0, inputs**-0.5)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*parts, last)


class Miners(nn.Module):
    """A miner for each of N generators, and the selector: how often each had the best image of a supersample.

    `wins` [1000, N]: the shares of the last minibatches; rows that are not filled yet are 0.
    """

    wins: Tensor

    def __init__(self, miners: Sequence[Miner]) -> None:
        super().__init__()
        self.miners = nn.ModuleList(miners)
        self.register_buffer("wins", torch.zeros(MINIBATCHES, len(self.miners)))

    @torch.no_grad()
    def record(self, winners: Tensor, minibatch: int) -> None:
        """Which generator won each supersample of a minibatch (counted from 0), int64 [B]."""
        self.wins[minibatch % MINIBATCHES] = F.one_hot(winners, len(self.miners)).float().mean(0)

    @property
    def probabilities(self) -> Tensor:
        """p [N], which sums to 1: of the last 1,000 minibatches; all alike before the first."""
        total = self.wins.sum(0)
        return torch.where(total.sum() > 0, total / total.sum().clamp(min=1e-12), 1 / len(self.miners))

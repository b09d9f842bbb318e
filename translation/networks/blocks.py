"""What networks are put together from: convolutions that reflect at the border, norms, residual blocks.

One factor `width` scales every channel count, so that a paper's network and one that trains on a laptop are the same
code. Shapes below: B images, C channels, h×w positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scaled(channels: int, width: float) -> int:
    """`channels`·`width`, at least 4 and a multiple of 4 (what CPU and GPU convolutions like)."""
    return max(4, round(channels * width / 4) * 4)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    """A convolution with reflection padding; by default the padding keeps H/stride."""
    padding = (kernel - stride + 1) // 2 if padding is None else padding
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="reflect")


class LayerNorm(nn.Module):
    """Layer norm over (C, h, w) of each image with a scale and shift a channel, as MUNIT defines it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, h, w]
        return F.group_norm(x, 1, self.weight, self.bias).to(x.dtype)  # autocast would go on in float32


def instance_norm(x: Tensor) -> Tensor:
    """x [B, C, h, w] with mean 0 and variance 1 in each channel of each image.

    On a CPU as one batch norm an image, which leaves channels-last maps as they lie, where torch's instance norm copies
    them to and fro: a half to a sixth of the time, forth and back. A single image is a batch norm everywhere: torch's
    instance norm (2.15) gives it a wrong gradient where the gradient that arrives is channels-last.
    """
    if x.device.type != "cpu" and len(x) > 1:
        return F.instance_norm(x)
    each = [F.batch_norm(one, None, None, training=True) for one in torch.split(x, 1)]
    return each[0] if len(each) == 1 else torch.cat(each)


class InstanceNorm(nn.Module):
    """`instance_norm` without scale and shift."""

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x)


def upsample(x: Tensor) -> Tensor:
    """x [B, C, h, w] → [B, C, 2h, 2w], bilinear.

    On a GPU channels-last: torch's other kernel has a thread for each place, which walks all images and channels (an
    eighth of a step at 128 px on an H200).
    """
    if x.device.type != "cpu":
        x = x.contiguous(memory_format=torch.channels_last)
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """conv-IN-ReLU-conv-IN + skip; no ReLU behind the sum, so its output is signed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(channels, channels, 3),
            InstanceNorm(),
            nn.ReLU(inplace=True),
            convolution(channels, channels, 3),
            InstanceNorm(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]

"""What networks are put together from: convolutions that reflect at the border, norms, residual blocks.

One factor `width` scales every channel count, so that a paper's network and one that trains on a laptop are the same
code. Shapes below: B images, C channels, h×w positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Start = Literal["kaiming", "normal", "xavier"]


def scaled(channels: int, width: float) -> int:
    """`channels`·`width`, at least 4 and a multiple of 4 (what CPU and GPU convolutions like)."""
    return max(4, round(channels * width / 4) * 4)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    """A convolution with reflection padding; by default the padding keeps H/stride."""
    padding = (kernel - stride + 1) // 2 if padding is None else padding
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="reflect")


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three linear layers with ReLU between them: what gives a decoder its norms' scales and shifts."""
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True), nn.Linear(hidden, outputs))


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
    if torch.onnx.is_in_onnx_export():  # of any batch, and of channels that a cast has made unknown
        centred = x - x.mean((2, 3), keepdim=True)
        return centred * (centred.square().mean((2, 3), keepdim=True) + 1e-5).rsqrt()
    if x.device.type != "cpu" and len(x) > 1:
        return F.instance_norm(x)
    each = [F.batch_norm(one, None, None, training=True) for one in torch.split(x, 1)]
    return each[0] if len(each) == 1 else torch.cat(each)


class InstanceNorm(nn.Module):
    """`instance_norm` without scale and shift, or what stands in for it while a picture passes in tiles."""

    instead: Callable[[InstanceNorm, Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x) if self.instead is None else self.instead(self, x)


def upsample(x: Tensor) -> Tensor:
    """x [B, C, h, w] → [B, C, 2h, 2w], bilinear.

    On a GPU channels-last: torch's other kernel has a thread for each place, which walks all images and channels (an
    eighth of a step at 128 px on an H200).
    """
    if x.device.type != "cpu":
        x = x.contiguous(memory_format=torch.channels_last)
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Blur(nn.Module):
    """x [B, C, h, w] blurred by `taps` in both directions, every `stride`th place kept; channels stay apart.

    A low-pass filter before places are dropped keeps an output from changing with shifts of its input by less than
    a stride (Zhang 2019). Three taps padded by 1 give h/stride, rounded up. On a CPU with channels-last maps this is
    about twice as fast as average pools.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float], stride: int = 1, padding: int = 1, mode: str = "reflect") -> None:
        super().__init__()
        line = torch.tensor(taps, dtype=torch.float32)
        kernel = line[:, None] * line[None, :]
        self.register_buffer("kernel", (kernel / kernel.sum())[None, None], persistent=False)
        self.stride, self.padding, self.mode = stride, padding, mode

    def forward(self, x: Tensor) -> Tensor:
        channels = int(x.shape[1])  # a number, also where the shape is traced
        padded = F.pad(x, (self.padding,) * 4, mode=self.mode)
        kernel = self.kernel.to(x.dtype).expand(channels, -1, -1, -1)
        return F.conv2d(padded, kernel, stride=self.stride, groups=channels)


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


class AdaINBlock(nn.Module):
    """A residual block whose two instance norms take scale and shift [B, C] each from outside: AdaIN, which SDIT calls
    conditional instance norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels, 3)
        self.second = convolution(channels, channels, 3)

    def forward(self, x: Tensor, scales: Tensor, shifts: Tensor) -> Tensor:  # both [B, 2, C]
        h = F.relu(adain(self.first(x), scales[:, 0], shifts[:, 0]))
        return x + adain(self.second(h), scales[:, 1], shifts[:, 1])


def adain(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Instance-normalised x [B, C, h, w] times (1 + scale) plus shift, both [B, C]."""
    return instance_norm(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


def initialise(network: nn.Module, kind: Start) -> None:
    """First weights of all `nn.Conv2d` and `nn.Linear`, biases 0.

    `kaiming` (fan in), `normal` N(0, 0.02²), or `xavier` normal with gain 0.02 (as CUT's authors start).
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if kind == "kaiming":
                nn.init.kaiming_normal_(module.weight, a=0, mode="fan_in")
            elif kind == "xavier":
                nn.init.xavier_normal_(module.weight, gain=0.02)
            else:
                nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

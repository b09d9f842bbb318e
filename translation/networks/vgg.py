"""VGG features for the perceptual term, from a safetensors file of the user's (none is shipped or downloaded).

The file holds the convolutions of VGG-19 in order, up to the layer wanted (keys `0.weight`, `0.bias`, `2.weight` …,
with or without a `features.` in front), optionally led by a 1×1 colour transform.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from index_store import places
from index_store.errors import RgunitError

BLOCKS = (2, 2, 4, 4, 4)  # 3×3 convolutions of VGG-19 before each max-pool
MEAN, DEVIATION = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # ImageNet's, where there is no colour transform


class VGG(nn.Module):
    """Images [B, 3, H, W] in [−1, 1] → features of the file's last convolution, behind its ReLU. Frozen."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            with places.opened(weights):
                tensors = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise RgunitError(f"cannot read the perceptual network {weights}: {error}") from None
        numbered = {}
        for key in tensors:
            if match := re.fullmatch(r"(?:features\.)?(\d+)\.weight", key):
                numbered[int(match[1])] = key.removesuffix("weight")
        kernels = [tensors[f"{numbered[i]}weight"].float() for i in sorted(numbered)]
        biases = [tensors[f"{numbered[i]}bias"].float() for i in sorted(numbered)]
        self.colour = len(kernels) > 0 and kernels[0].shape[2:] == (1, 1)
        three = [k for k in kernels if k.shape[2:] == (3, 3)]
        if len(three) != len(kernels) - self.colour or not 1 <= len(three) <= sum(BLOCKS):
            raise RgunitError(f"{weights} does not hold the convolutions of a VGG-19 (keys {', '.join(tensors)[:80]}…)")
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            self.register_buffer(f"kernel{i}", kernel)
            self.register_buffer(f"bias{i}", bias)
        self.count = len(kernels)

    def forward(self, images: Tensor) -> Tensor:
        x = (images + 1) / 2
        first = 0
        if self.colour:
            x = F.conv2d(x, self.get_buffer("kernel0"), self.get_buffer("bias0"))
            first = 1
        else:
            x = (x - x.new_tensor(MEAN).view(3, 1, 1)) / x.new_tensor(DEVIATION).view(3, 1, 1)
        pools = {first + sum(BLOCKS[:i]) for i in range(1, len(BLOCKS))}
        for i in range(first, self.count):
            if i in pools:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            x = F.conv2d(
                F.pad(x, (1, 1, 1, 1), mode="reflect"),
                self.get_buffer(f"kernel{i}"),
                self.get_buffer(f"bias{i}"),
            )
            x = torch.relu(x)
        return x

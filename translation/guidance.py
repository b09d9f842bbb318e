"""Guidance by convolution: k retrieved content maps join the source's as the generator's input (RG-UNIT, Section 3.3).

c_r = ReLU(conv3×3([E_c(r1) … E_c(rk)])), c_total = conv3×3([E_c(x), c_r]).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from translation.networks import convolution


class ConvolutionFusion(nn.Module):
    """Content [B, C, h, w] and neighbours' content [B, k, C, h, w] → fused content [B, C, h, w].

    `paper`: a last ReLU (Table 8), which clips the signed E_c(x), and a random start. `identity`: no last ReLU, and
    the second convolution starts as [identity, 0], so that the first step of stage 3 equals stage 1.
    """

    def __init__(self, channels: int, neighbours: int, start: Literal["identity", "paper"] = "identity") -> None:
        super().__init__()
        self.neighbours, self.clip = neighbours, start == "paper"
        self.gather = convolution(neighbours * channels, channels, 3)
        self.merge = convolution(2 * channels, channels, 3)
        for layer in (self.gather, self.merge):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if start == "identity":
            nn.init.zeros_(self.merge.weight)
            with torch.no_grad():
                self.merge.weight[:, :channels, 1, 1].copy_(torch.eye(channels))

    def forward(self, content: Tensor, neighbours: Tensor) -> Tensor:
        retrieved = F.relu(self.gather(neighbours.flatten(1, 2)))
        fused: Tensor = self.merge(torch.cat([content, retrieved], dim=1))
        return F.relu(fused) if self.clip else fused

    def neighbour_share(self) -> Tensor:
        """Norm of the merge's weights on the neighbours over that on the source: 0 at the identity start."""
        channels = self.merge.weight.shape[1] // 2
        ours, theirs = self.merge.weight[:, :channels], self.merge.weight[:, channels:]
        share: Tensor = theirs.detach().norm() / ours.detach().norm()
        return share

"""Which precision to train in where the configuration leaves it open: bf16 where it is quicker, measured.

Processors that have bf16 instructions need not be quick in them, and those that have none imitate them slowly.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch
from torch.nn import functional as F

from translation.training.processes import launched

Settled = Literal["32-true", "bf16-mixed"]
GAIN = 0.9  # bf16 is taken where it needs less than this share of the time: rounding should be worth something
TRIALS = 5


@cache
def faster_precision(device: str) -> Settled:
    """The precision for a device name (`cpu`, `cuda`, `auto`): on a GPU bf16 if it has it, on a CPU the quicker one.

    A CPU is timed once a process, on a convolution like the networks' with its gradients, in well under a second.
    Several processes would find different answers, so on CPUs they train in full precision.
    """
    if device == "mps":
        return "32-true"
    if device != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if launched() != (1, 1):
        return "32-true"
    return "bf16-mixed" if _seconds(torch.bfloat16) < GAIN * _seconds(torch.float32) else "32-true"


def _seconds(kind: torch.dtype) -> float:
    """The best of a few times of a 3×3 convolution of 8 maps of 96 channels and its gradients."""
    maps = torch.zeros(8, 96, 16, 16).to(kind, memory_format=torch.channels_last).requires_grad_()
    weight = torch.zeros(96, 96, 3, 3).to(kind, memory_format=torch.channels_last).requires_grad_()
    best = float("inf")
    for _ in range(TRIALS):
        begun = time.perf_counter()
        F.conv2d(maps, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]
        best = min(best, time.perf_counter() - begun)
    return best

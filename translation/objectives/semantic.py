"""What must not change: the features of an extractor that reads the protected property (UDIT, Wang et al. 2020)."""

from __future__ import annotations

from torch import Tensor


def semantic(source: Tensor, made: Tensor) -> Tensor:
    """‖h(x̂) − h(x)‖ (thesis, Eq. 5.3): mean absolute difference of features [B, D, h, w]; no gradient to h(x)."""
    return (made.float() - source.detach().float()).abs().mean()

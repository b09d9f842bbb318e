"""What each kind of modality is trained by (Wang 2020, Section 4.4.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def berhu(made: Tensor, wanted: Tensor) -> Tensor:
    """Eq. 4.6: |d| up to c, (d² + c²)/2c beyond, c a fifth of each image's largest |d|; both [B, 1, H, W]; the mean."""
    gap = (made.float() - wanted.float()).abs()
    c = (gap.detach().flatten(1).amax(1) / 5).clamp(min=1e-6)[:, None, None, None]
    return torch.where(gap <= c, gap, (gap.square() + c.square()) / (2 * c)).mean()


def cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Eq. 4.7: of logits [B, K, H, W] with shares of the classes [B, K, H, W]; the mean over pixels."""
    return F.cross_entropy(logits.float(), wanted.float())


def squared_difference(made: Tensor, wanted: Tensor) -> Tensor:
    """Eq. 4.1: the mean square."""
    return F.mse_loss(made.float(), wanted.float())

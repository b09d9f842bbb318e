"""How far pictures, contents and features are apart, and the blend of a prediction with its source.

Images and their reconstructions are [B, 3, H, W] in [−1, 1]; ‖·‖ is a mean over elements (RG-UNIT, Eq. 1–7).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from translation.networks.blocks import instance_norm


def blend(prediction: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """x̂ = x̃·M + x·(1 − M); prediction and source [B, 3, H, W], mask [B, 1, H, W] in [0, 1]."""
    return source + mask * (prediction - source)


def absolute_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean |a − b|: the form of the content, style, reconstruction and cycle terms."""
    return (a.float() - b.float()).abs().mean()


def perceptual(features: Tensor, cycled: Tensor) -> Tensor:
    """Mean squared difference of instance-normalised features [B, F, h, w] of x and its cycle image (MUNIT)."""
    return F.mse_loss(instance_norm(cycled.float()), instance_norm(features.float()))

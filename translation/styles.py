"""The style space of GMM-UNIT: a fixed mixture of Gaussians, one component a domain (RG-UNIT, Section 3.1).

A domain is one combination of A attribute bits a; its component is N(2a − 1, 0.5²), the same in each attribute's 8
coordinates. So a style vector can be read: the sign of an attribute's mean coordinate is the attribute's bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from translation.networks import STYLE_PER_ATTRIBUTE

STANDARD_DEVIATION = 0.5


def style_mean(labels: Tensor) -> Tensor:
    """Component means [B, 8·A] float of labels [B, A] in {1, 0, −1}: 2a − 1, and 0 for an unknown bit (−1)."""
    bits = labels.float()
    means = torch.where(bits < 0, torch.zeros_like(bits), 2 * bits - 1)
    return means.repeat_interleave(STYLE_PER_ATTRIBUTE, dim=1)


def sample_style(labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Styles [B, 8·A] drawn from the components of known labels [B, A]: N(2a − 1, 0.5²).

    The noise is drawn on the CPU, so that a seed gives the same style on every device.
    """
    means = style_mean(labels)
    noise = torch.randn(means.shape, generator=generator)
    return means + STANDARD_DEVIATION * noise.to(means.device)


def style_labels(style: Tensor) -> Tensor:
    """Labels int8 [B, A] read off styles [B, 8·A]: 1 where the mean of an attribute's 8 numbers is positive."""
    each = style.view(len(style), -1, STYLE_PER_ATTRIBUTE).mean(2)
    return (each > 0).to(torch.int8)

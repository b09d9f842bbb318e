"""The style space of GMM-UNIT and the terms that teach it: a fixed mixture of Gaussians, one component a domain.

A domain is one combination of A attribute bits a; its component is N(2a − 1, 0.5²), the same in each attribute's 8
coordinates (RG-UNIT, Section 3.1). So a style vector can be read: the sign of an attribute's mean coordinate is the
attribute's bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from translation.networks.gmm_unit import STYLE_PER_ATTRIBUTE

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
    each = style.view(style.shape[0], -1, STYLE_PER_ATTRIBUTE).mean(2)
    return (each > 0).to(torch.int8)


def kl_to_component(mean: Tensor, log_variance: Tensor, labels: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(2a − 1, 0.5²)) summed over the coordinates of known bits, averaged over the batch.

    mean, log_variance [B, 8·A]; labels [B, A] in {1, 0, −1}. Summed, not averaged, over coordinates: this term alone
    teaches E_s what real images' styles are, and averaged it is 8·A times too weak to.
    """
    mean, log_variance = mean.float(), log_variance.float()
    variance = STANDARD_DEVIATION**2
    known = (labels >= 0).float().repeat_interleave(mean.shape[1] // labels.shape[1], dim=1)
    log_ratio = log_variance - math.log(variance)
    distance = (mean - style_mean(labels)).square() / variance
    divergence = 0.5 * (log_ratio.exp() + distance - 1 - log_ratio)
    return (divergence * known).sum(1).mean()


def isometry(first: Tensor, second: Tensor, decoded_first: Tensor, decoded_second: Tensor) -> Tensor:
    """| mean|s₁ − s₂| − mean|E_s(x̂₁) − E_s(x̂₂)| |, a batch mean; styles [B, 8·A] of two samples of a source.

    Keeps different styles different in the picture (GMM-UNIT's isometry term).
    """
    wanted = (first.float() - second.float()).abs().mean(1)
    decoded = (decoded_first.float() - decoded_second.float()).abs().mean(1)
    return (wanted - decoded).abs().mean()


def sampled(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """E_s's sample μ + σ·noise [B, 8·A], in full precision: exp() overflows early in half."""
    return mean.float() + (0.5 * log_variance.float()).exp() * noise

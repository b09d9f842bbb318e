"""Real or made: what the discriminator and the generator are told, and what keeps the discriminator smooth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def adversarial_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Least squares for D, summed over scales: (D(x) − 1)² + D(x̂)²; maps [B, 1, h, w]."""
    terms = [(r.float() - 1).square().mean() + f.float().square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).sum()


def adversarial_generator(fake: Sequence[Tensor]) -> Tensor:
    """Least squares for G, summed over scales: (D(x̂) − 1)²."""
    return torch.stack([(f.float() - 1).square().mean() for f in fake]).sum()


def gradient_penalty(real: Sequence[Tensor], images: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018, Eq. 9): ‖∇ₓ D(x)‖² of real images x [B, 3, H, W], a batch mean; maps summed up.

    A discriminator that is flat around real images cannot be fooled by patterns that nobody sees.
    """
    total = torch.stack([r.float().mean(dim=(1, 2, 3)).sum() for r in real]).sum()
    (gradient,) = torch.autograd.grad(total, images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()

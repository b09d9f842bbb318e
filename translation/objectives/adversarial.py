"""Real or made: what the discriminator and the generator are told, and what keeps the discriminator smooth.

Maps are [B, 1, h, w] for each scale. `weight` [B] says how much each made image counts (INIT's importance: mean 1, no
gradient goes through it); the batch is averaged last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from translation.objectives.weighting import average


def adversarial_discriminator(
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    weight: Tensor | None = None,
    wrong: tuple[Sequence[Tensor], Tensor] | None = None,
) -> Tensor:
    """Least squares for D, summed over scales: (D(x) − 1)² + D(x̂)²; maps [B, 1, h, w], x̂ weighted by `weight` [B].

    `wrong`: what D, which judges by labels, says of real images under wrong ones, and [B] which of them count (1, else
    0). They are half of what is to be found false (Reed et al. 2016, matching-aware).
    """
    terms = []
    for i, (r, f) in enumerate(zip(real, fake, strict=True)):
        false = average(f.float().square(), weight)
        if wrong is not None:
            maps, counts = wrong
            each = maps[i].float().square().flatten(1).mean(1) * counts
            false = 0.5 * false + 0.5 * each.sum() / counts.sum().clamp(min=1)
        terms.append((r.float() - 1).square().mean() + false)
    return torch.stack(terms).sum()


def adversarial_generator(fake: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
    """Least squares for G, summed over scales: (D(x̂) − 1)², weighted by `weight` [B]."""
    return torch.stack([average((f.float() - 1).square(), weight) for f in fake]).sum()


def logistic_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
    """Log loss for D on logits, summed over scales: −log σ(D(x)) − log(1 − σ(D(x̂))), x̂ weighted by `weight` [B]."""
    terms = [
        F.softplus(-r.float()).mean() + average(F.softplus(f.float()), weight) for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).sum()


def logistic_generator(fake: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
    """Nonsaturating log loss for G (Goodfellow et al. 2014), summed over scales: −log σ(D(x̂)), weighted by `weight`."""
    return torch.stack([average(F.softplus(-f.float()), weight) for f in fake]).sum()


def gradient_penalty(real: Sequence[Tensor], images: Tensor, wanted: float = 0.0) -> Tensor:
    """R1 (Mescheder et al. 2018, Eq. 9): ‖∇ₓ D(x)‖² of real images x [B, 3, H, W], a batch mean; maps summed up.

    A discriminator that is flat around real images cannot be fooled by patterns that nobody sees. With `wanted` 1 it is
    WGAN-GP's (‖∇ₓ D(x)‖ − 1)² (Gulrajani et al. 2017, Eq. 3), x between real and made images.
    """
    total = torch.stack([r.float().mean(dim=(1, 2, 3)).sum() for r in real]).sum()
    (gradient,) = torch.autograd.grad(total, images, create_graph=True)
    squared = gradient.square().sum(dim=(1, 2, 3))
    if wanted == 0.0:
        return squared.mean()
    return ((squared + 1e-12).sqrt() - wanted).square().mean()

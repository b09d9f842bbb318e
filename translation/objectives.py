"""Every term of every loss, as pure functions of tensors: no networks, no weights, no state.

Images and their reconstructions are [B, 3, H, W] in [−1, 1]; ‖·‖ is a mean over elements. Sources: RG-UNIT
(Section 3, Eq. 1–7) and `methods.md`, section 1, where the paper and its code disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from translation.networks import instance_norm
from translation.styles import STANDARD_DEVIATION, style_mean


def blend(prediction: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """x̂ = x̃·M + x·(1 − M); prediction and source [B, 3, H, W], mask [B, 1, H, W] in [0, 1]."""
    return source + mask * (prediction - source)


def absolute_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean |a − b|: the form of the content, style, reconstruction and cycle terms."""
    return (a.float() - b.float()).abs().mean()


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


def domain(
    logits: Sequence[Tensor],
    labels: Tensor,
    groups: Sequence[Sequence[int]] = (),
    shared: Callable[[Tensor], Tensor] = lambda count: count,
) -> Tensor:
    """Classification of attributes: logits [B, A] a scale, labels [B, A] in {1, 0, −1 = unknown: left out}.

    Binary cross-entropy for each attribute, averaged over the known bits. For each of `groups` (indices of exclusive
    attributes) softmax cross-entropy over the members and “none of them” (logit 0) instead, over the rows where at
    most one member is true and all are known. `shared`: the mean over all processes of what is known in each, so that
    their mean gradient is that of one batch. Columns are taken one by one: a list as index would make a GPU wait.
    """
    table = torch.cat([scale.float() for scale in logits])  # each scale knows the same bits: one mean over all
    labels, attributes = labels.repeat(len(logits), 1), labels.shape[1]
    total = table.new_zeros(())
    grouped = sorted({i for group in groups for i in group})
    if single := [i for i in range(attributes) if i not in grouped]:
        alone = _columns(labels, single)
        known = (alone >= 0).float()
        losses = F.binary_cross_entropy_with_logits(
            _columns(table, single), alone.clamp(min=0).float(), reduction="none"
        )
        total = total + (losses * known).sum() / _at_least_one(shared(known.sum())) * (len(single) / attributes)
    for group in groups:
        members = _columns(labels, group)
        true = members.clamp(min=0)
        valid = ((members >= 0).all(1) & (true.sum(1) <= 1)).float()
        choice = torch.where(true.sum(1) > 0, true.argmax(1), torch.full_like(true[:, 0], len(group)))
        scores = torch.cat([_columns(table, group), table.new_zeros(len(table), 1)], dim=1)
        losses = F.cross_entropy(scores, choice.long(), reduction="none")
        total = total + (losses * valid).sum() / _at_least_one(shared(valid.sum())) * (len(group) / attributes)
    return total


def _at_least_one(count: Tensor) -> Tensor:
    """The count, 1 where it is 0: then nothing is summed up either."""
    return torch.where(count > 0, count, torch.ones_like(count))


def _columns(table: Tensor, columns: Sequence[int]) -> Tensor:
    return torch.stack([table[:, i] for i in columns], dim=1)


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


def perceptual(features: Tensor, cycled: Tensor) -> Tensor:
    """Mean squared difference of instance-normalised features [B, F, h, w] of x and its cycle image (MUNIT)."""
    return F.mse_loss(instance_norm(cycled.float()), instance_norm(features.float()))

"""Which made images teach most: INIT's adversarial importance weights (Cao et al. 2020, Section 3.1, Eq. 5 to 7), and
weights from a store of real images.

A fake that the discriminator takes for real counts more: exp(D̃), D̃ the logit before the sigmoid. As D is not the best
one, the whole batch is scaled by how far an embedding φ on a sphere of radius r is from its optimum, where a source and
its own translation are alike and all others far apart. The paper's sums are means here (`methods.md`, section 4): with
sums 2r could not be the optimum for every batch size.

The store's (not in the paper) ask the real images instead of D: how far a fake is from its nearest ones of its domain.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST, MOST = 0.1, 10.0  # of the batch's factor
RADIUS = 1.0
NEAREST = 5  # real images that a fake is compared with


def adversarial_importance(
    logits: Tensor,
    sources: Tensor,
    fakes: Tensor,
    *,
    radius: float = RADIUS,
    bounds: tuple[float, float] = (LEAST, MOST),
) -> Tensor:
    """Weights float32 [B] of fakes: exp(D̃) with mean 1 in the batch, times the batch's factor within `bounds`.

    logits [B] of D on the fakes; sources and fakes [B, d], embeddings of what was translated and of what was made. No
    gradient flows through the weights. A single image has weight 1 times a factor of its own distance alone.
    """
    with torch.no_grad():
        hardness = F.softmax(logits.detach().float(), dim=0) * len(logits)
        return hardness * batch_factor(sources.detach(), fakes.detach(), radius).clamp(*bounds)


def batch_factor(sources: Tensor, fakes: Tensor, radius: float = RADIUS) -> Tensor:
    """(1 + (Δl* − Δl))², a scalar: Δl = mean distance of strangers − mean distance of pairs, Δl* = 2r its optimum.

    sources and fakes [B, d] are put on the sphere of radius r first; without strangers (B = 1) their distance is 2r.
    """
    a, b = (radius * F.normalize(x.float().flatten(1), dim=1) for x in (sources, fakes))
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    pairs = distances.diagonal().mean()
    n = len(a)
    others = (distances.sum() - distances.diagonal().sum()) / max(1, n * (n - 1))
    strangers = others if n > 1 else torch.full_like(pairs, 2 * radius)
    return (1 + (2 * radius - (strangers - pairs))).square()


def nearness_importance(distances: Tensor) -> Tensor:
    """Weights float32 [B] of fakes by `distances` [B] ≥ 0 to their nearest real images: exp(−d / d̄) with mean 1.

    d̄ is the batch's mean, and d / d̄ counts up to 2, so that weights are within [e⁻², e²]. As INIT's, which estimate
    how much more likely an image is among real ones than among made ones by exp(D̃), they are larger for a fake that is
    more like real ones. No gradient flows through them.
    """
    with torch.no_grad():
        d = distances.detach().float()
        return F.softmax(-(d / d.mean().clamp(min=1e-12)).clamp(max=2.0), dim=0) * len(d)


def nearest_of_domain(
    vectors: Tensor, known: Tensor, labels: Tensor, targets: Tensor, nearest: int = NEAREST
) -> Tensor:
    """Mean Euclidean distance [B] of vectors [B, d] to their `nearest` ones among known [N, d] of the target's domain.

    labels int [N, A] and targets [B, A] in {1, 0, −1 = unknown}. The domain are those with the most labels equal to the
    target's: all of them where there are any such images; fewer than `nearest` of them count as they are.
    """
    with torch.no_grad():
        distances = torch.cdist(vectors.float(), known.float(), compute_mode="donot_use_mm_for_euclid_dist")
        agreed = ((targets[:, None] == labels[None]) & (targets[:, None] >= 0)).sum(2)
        inside = agreed == agreed.amax(1, keepdim=True)
        closest = distances.masked_fill(~inside, torch.inf).topk(min(nearest, len(known)), dim=1, largest=False).values
        there = closest.isfinite()
        return torch.where(there, closest, torch.zeros_like(closest)).sum(1) / there.sum(1)

"""Which made images teach most: INIT's adversarial importance weights (Cao et al. 2020, Section 3.1, Eq. 5 to 7).

A fake that the discriminator takes for real counts more: exp(D̃), D̃ the logit before the sigmoid. As D is not the best
one, the whole batch is scaled by how far an embedding φ on a sphere of radius r is from its optimum, where a source and
its own translation are alike and all others far apart. The paper's sums are means here (`methods.md`, section 4): with
sums 2r could not be the optimum for every batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST, MOST = 0.1, 10.0  # of the batch's factor
RADIUS = 1.0


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

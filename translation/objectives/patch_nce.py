"""PatchNCE: a place of the translation should be told from its source's other places (CUT, Section 3, Eq. 2 and 3).

The vector at a place of the output (query) is compared with those of the source (keys): the same place is right, the
others are wrong. Shapes: B images, P positions, D numbers a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from translation.objectives.weighting import average

TEMPERATURE = 0.07


def sample_positions(places: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """`count` different positions of `places` = h·w, all of them where there are fewer; int64 [P] on the CPU.

    Row by row: y·w + x. One draw serves source and output, and all images of a batch.
    """
    return torch.randperm(places, generator=generator)[:count]


def mirrored(positions: Tensor, width: int) -> Tensor:
    """The same places of a map `width` wide that was mirrored left to right: FastCUT's flip equivariance."""
    column = positions % width
    return positions - column + (width - 1 - column)


def gather_positions(features: Tensor, positions: Tensor) -> Tensor:
    """The vectors at `positions` [P] of a map [B, C, h, w]: [B, P, C]."""
    there = positions.to(features.device, non_blocking=True)
    return features.flatten(2).index_select(2, there).transpose(1, 2)


def patch_nce(query: Tensor, key: Tensor, temperature: float = TEMPERATURE, across_batch: bool = False) -> Tensor:
    """Cross-entropy of finding the key of the same place, a mean over places: float32 [B].

    query of the output and key of the source [B, P, D], of length 1. Wrong keys are those of the other places of the
    same image, with `across_batch` of all images too. No gradient flows into `key`. Computed in float32 also under
    mixed precision: scores are divided by `temperature`. ValueError: no wrong key to tell from.
    """
    images, places, _ = query.shape
    if places * (images if across_batch else 1) < 2:
        raise ValueError("one position has nothing to be told from: sample more, or take negatives across the batch")
    with torch.autocast(query.device.type, enabled=False):
        q, k = query.float(), key.detach().float() / temperature  # here it costs no pass over the scores
        if across_batch:
            q, k = q.reshape(1, images * places, -1), k.reshape(1, images * places, -1)
        scores = q @ k.transpose(1, 2)  # [B, P, P], or [1, B·P, B·P]
        right = torch.arange(scores.shape[1], device=scores.device).repeat(len(scores))
        return F.cross_entropy(scores.flatten(0, 1), right, reduction="none").view(images, places).mean(1)


def patch_nce_over_layers(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    temperature: float = TEMPERATURE,
    across_batch: bool = False,
    weight: Tensor | None = None,
) -> Tensor:
    """The mean over layers of `patch_nce`, then over images, each counted `weight` [B] times: a scalar.

    queries and keys: [B, P, D] of each layer; P and D may differ between layers.
    """
    each = [patch_nce(q, k, temperature, across_batch) for q, k in zip(queries, keys, strict=True)]
    return average(torch.stack(each).mean(0), weight)

"""Classification of attributes, with unknown bits left out (RG-UNIT, Section 3; `methods.md`, section 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


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

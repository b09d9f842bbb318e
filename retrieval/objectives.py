"""Losses of the embedding network: the paper's triplets, InfoNCE, distance mining, and those of a content vector.

All read the same embeddings float [B, d] of anchors and positives, and [m, B, d] of m kinds of negatives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.triplets import TripletLoss

if TYPE_CHECKING:
    from retrieval.config import RetrievalConfig


def make_objective(config: RetrievalConfig, dim: int) -> nn.Module:
    """(anchor, positive, negatives) → loss, for embeddings of `dim` numbers."""
    if config.objective == "triplet":
        return ExplicitTriplets(config)
    if config.objective == "parts":
        return Views(config.temperature)
    if config.objective == "info_nce":
        return InfoNCE(config.temperature, squared=not config.normalize)
    return Mined(config, dim)


class ExplicitTriplets(nn.Module):
    """The mean of max(0, margin + d(a, p) − d(a, n)) over every kind of negative that is given (RG-UNIT, Eq. 1)."""

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__()
        self.loss = TripletLoss(config.margin, config.distance)

    def forward(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        losses = [self.loss(anchor, positive, negative)[0] for negative in negatives]
        return torch.stack(losses).mean()


class InfoNCE(nn.Module):
    """Cross-entropy that picks an anchor's positive out of its own negatives and everything else in the batch.

    Logits are −‖a − x‖²/τ (`squared`), or cosines/τ of normalised embeddings. (van den Oord et al., 2018.)
    """

    def __init__(self, temperature: float, *, squared: bool) -> None:
        super().__init__()
        self.temperature, self.squared = temperature, squared

    def forward(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        among = torch.cat([positive, negatives.flatten(0, 1)])
        logits = anchor @ among.T
        if self.squared:
            logits = 2 * logits - anchor.square().sum(1, keepdim=True) - among.square().sum(1)
        return F.cross_entropy(logits / self.temperature, torch.arange(len(anchor), device=anchor.device))


class Mined(nn.Module):
    """Distance mining over the batch, and `memory` earlier embeddings, by pytorch-metric-learning.

    An anchor and its positive are of one class, everything else is of a class of its own: the kinds of negatives are
    the paper's, which of them count is decided by distance (semi-hard triplets, or the multi-similarity loss).
    """

    def __init__(self, config: RetrievalConfig, dim: int) -> None:
        super().__init__()
        from pytorch_metric_learning.distances import LpDistance
        from pytorch_metric_learning.losses import CrossBatchMemory, MultiSimilarityLoss, TripletMarginLoss
        from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner

        self.loss: nn.Module
        self.miner: nn.Module
        if config.objective == "semihard":
            distance = LpDistance(normalize_embeddings=config.normalize, p=2)
            self.loss = TripletMarginLoss(margin=config.margin, distance=distance)
            self.miner = TripletMarginMiner(margin=config.margin, type_of_triplets="semihard", distance=distance)
        else:
            self.loss, self.miner = MultiSimilarityLoss(), MultiSimilarityMiner()
        self.memory = bool(config.memory)
        if self.memory:
            self.loss = CrossBatchMemory(self.loss, embedding_size=dim, memory_size=config.memory, miner=self.miner)
        self.seen = 0

    def forward(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        pairs = torch.arange(len(anchor), device=anchor.device)
        others = len(anchor) + torch.arange(negatives.shape[0] * negatives.shape[1], device=anchor.device)
        classes = torch.cat([pairs, pairs, others])
        embeddings = torch.cat([anchor, positive, negatives.flatten(0, 1)])
        if not self.memory:
            loss: Tensor = self.loss(embeddings, classes, self.miner(embeddings, classes))
            return loss
        classes = classes + self.seen  # no class of an earlier batch is met again
        self.seen += len(pairs) + len(others)
        remembered: Tensor = self.loss(embeddings, classes)
        return remembered


class Views(nn.Module):
    """InfoNCE over content alone: an image, its translation and a changed view of it are one, all others are not."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, anchor: Tensor, positives: Tensor, others: Tensor) -> Tensor:
        """anchor [B, d]; positives [p, B, d]; others [m, B, d], negatives for every anchor. All of length 1."""
        rows = torch.arange(len(anchor), device=anchor.device)
        against = torch.cat([others.flatten(0, 1), positives.flatten(0, 1)])
        logits = anchor @ against.T / self.temperature
        own = torch.zeros_like(logits, dtype=torch.bool)
        for place in range(len(positives)):  # an image's own positives are no negatives of it
            own[rows, others.shape[0] * others.shape[1] + place * len(anchor) + rows] = True
        logits = logits.masked_fill(own, float("-inf"))
        losses = []
        for positive in positives:
            near = (anchor * positive).sum(dim=1, keepdim=True) / self.temperature
            losses.append(F.cross_entropy(torch.cat([near, logits], dim=1), torch.zeros_like(rows)))
        return torch.stack(losses).mean()


def labels_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """logits [B, O]; labels int8 [B, O], −1 unknown: mean binary cross-entropy over the known ones."""
    known = labels >= 0
    losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits.dtype), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)

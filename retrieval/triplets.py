"""Triplets made by the translator itself (RG-UNIT, section 3.2): what is near, and four ways of being wrong.

x has domain i, t ≠ i is the target, x_r another image of domain r ≠ t, s_d a style of domain d. The kind of
negative is drawn for each triplet; a batch is encoded once and only the translations that its kinds need
are made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retrieval.config import NEGATIVES, Distance
from retrieval.protocol import Encoders

EASY, MEDIUM, HARD, OWN_DOMAIN = range(len(NEGATIVES))
"""A triplet's `kind`: its negative's place in `NEGATIVES`."""


@dataclass(frozen=True)
class Pair:
    """What the embedding network reads: content [B, C, h, w] and style [B, S]."""

    content: Tensor
    style: Tensor


@dataclass(frozen=True)
class Triplets:
    """Three pairs a triplet and the kind int64 [B] of its negative."""

    anchor: Pair
    positive: Pair
    negative: Pair
    kind: Tensor


@torch.no_grad()
def make_triplets(
    encoders: Encoders,
    images: Tensor,
    others: Tensor,
    style_target: Tensor,
    style_negative: Tensor,
    kind: Tensor,
) -> Triplets:
    """Triplets of x = `images` and x_r = `others`, both [B, 3, H, W], with s_t = `style_target` [B, S].

    anchor (E_c(x), s_t), positive enc(G(E_c(x), s_t)), and by `kind`:

    ========== ======================================== ===========================
    easy       enc(x_r)                                 another image, as it is
    medium     (E_c(G(E_c(x_r), s_t)), E_s(positive))   same style, other content
    hard       enc(G(E_c(x), s_r))                      same content, other style
    own_domain enc(G(E_c(x), s_i))                      same content, the style left
    ========== ======================================== ===========================

    `style_negative` [B, S] holds s_r in the rows of `hard`, s_i in those of `own_domain`; others are not read. `kind`
    int64 [B] is best on the host: then nothing waits for the device. Nothing here carries a gradient: the translator
    is frozen. (RG-UNIT, section 3.2.)
    """
    n = len(images)
    easy, medium, restyled = (
        torch.nonzero(rows).flatten().to(images.device) for rows in (kind == EASY, kind == MEDIUM, kind >= HARD)
    )

    # E_c of every image once: x, then the x_r that are needed (easy ones first).
    needed = others[torch.cat([easy, medium])]
    content = encoders.content(torch.cat([images, needed]))
    content_x, content_easy, content_medium = torch.split(content, [n, len(easy), len(medium)])

    # Every translation in one batch: x̂, then hard and own-domain ones, then x̂_r.
    made = encoders.translate(
        torch.cat([images, images[restyled], needed[len(easy) :]]),
        torch.cat([content_x, content_x[restyled], content_medium]),
        torch.cat([style_target, style_negative[restyled], style_target[medium]]),
    ).image
    content = encoders.content(made)
    content_positive, content_restyled, content_moved = torch.split(content, [n, len(restyled), len(medium)])
    style = encoders.style(torch.cat([made[: n + len(restyled)], needed[: len(easy)]]))
    style_positive, style_restyled, style_easy = torch.split(style, [n, len(restyled), len(easy)])

    content_negative = torch.empty_like(content_positive)
    content_negative[easy], content_negative[medium] = content_easy, content_moved
    content_negative[restyled] = content_restyled
    style_wrong = torch.empty_like(style_positive)
    style_wrong[easy], style_wrong[medium], style_wrong[restyled] = style_easy, style_positive[medium], style_restyled

    return Triplets(
        anchor=Pair(content_x, style_target),
        positive=Pair(content_positive, style_positive),
        negative=Pair(content_negative, style_wrong),
        kind=kind,
    )


class TripletLoss(nn.Module):
    """mean max(0, margin + d(a, p) − d(a, n)) of explicit triplets, by pytorch-metric-learning.

    Three of that library's defaults would make it another loss: it normalises embeddings, averages over the
    triplets that are not yet satisfied only, and its distance matrix loses digits by a matrix product.
    """

    def __init__(self, margin: float, distance: Distance = "euclidean") -> None:
        super().__init__()
        from pytorch_metric_learning.distances import LpDistance
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.reducers import MeanReducer

        class Exact(LpDistance):  # type: ignore[misc]
            def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
                return torch.cdist(query_emb, ref_emb, compute_mode="donot_use_mm_for_euclid_dist")

        self.margin = margin
        self.distance = Exact(normalize_embeddings=False, p=2, power=2 if distance == "squared" else 1)
        self.loss = TripletMarginLoss(margin=margin, distance=self.distance, reducer=MeanReducer())

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [B, d] each → (loss, d(a, p) [B], d(a, n) [B]); the distances carry no gradient."""
        n = len(anchor)
        rows = torch.arange(n, device=anchor.device)
        candidates = torch.cat([positive, negative])
        loss = self.loss(anchor, indices_tuple=(rows, rows, rows + n), ref_emb=candidates)
        with torch.no_grad():
            power = self.distance.power
            to_positive = (anchor - positive).norm(dim=1) ** power
            to_negative = (anchor - negative).norm(dim=1) ** power
        return loss, to_positive, to_negative

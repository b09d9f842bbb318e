"""Where the triplets of a step come from: made anew by the translator, or chosen from a pool of encodings.

Both draw from a generator alone, in any thread, and then encode on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_store.workspace import Workspace
from retrieval.config import NEGATIVES, NegativeKind
from retrieval.domains import Domains
from retrieval.pool import ITSELF, OWN, VIEW, WITHOUT, PoolSampler, TripletPool
from retrieval.protocol import Encoders
from retrieval.tensors import mirrored_pixels, to_tensor
from retrieval.triplets import EASY, HARD, MEDIUM, OWN_DOMAIN, Pair, make_triplets


@dataclass(frozen=True)
class Encoded:
    """Triplets as the network reads them, on the device: one negative each of `kind` int64 [B], or one of every kind
    (`kind` None). `parts`: what the objective of that name reads beside them."""

    anchor: Pair
    positive: Pair
    negatives: tuple[Pair, ...]
    kind: Tensor | None
    parts: PartsBatch | None = None


@dataclass(frozen=True)
class PartsBatch:
    """A changed view's content [B, C, h, h] and other attributes int8 [B, O] of the anchors' images."""

    view: Tensor
    labels: Tensor


class Source(Protocol):
    """Prepares a batch on the host, and encodes it on the device."""

    def draw(self, rng: np.random.Generator, size: int) -> object: ...

    def encode(self, batch: object, device: torch.device) -> Encoded: ...


@dataclass(frozen=True)
class TripletBatch:
    """Images and others uint8 [B, H, W, 3], styles [B, S], kind int64 [B], on the host."""

    images: Tensor
    others: Tensor
    style_target: Tensor
    style_negative: Tensor
    kind: Tensor


class MadeAnew:
    """Triplets that the translator makes for each step (RG-UNIT, section 3.2)."""

    def __init__(
        self,
        workspace: Workspace,
        encoders: Encoders,
        ids: NDArray[np.int64],
        domains: Domains,
        negatives: tuple[NegativeKind, ...],
        *,
        mirror: bool,
    ) -> None:
        self.workspace, self.encoders, self.ids, self.domains = workspace, encoders, ids, domains
        self.negatives, self.mirror = negatives, mirror

    def draw(self, rng: np.random.Generator, size: int) -> TripletBatch:
        """Images, and the styles that are asked of them."""
        n, every = len(self.ids), self.domains
        x = rng.choice(n, size, replace=size > n)
        target = every.of[every.draw_outside(rng, every.of[x])]  # t ≠ i
        other = every.draw_outside(rng, target, not_image=x)  # x_r, r ≠ t
        kinds = np.array([NEGATIVES.index(kind) for kind in self.negatives])
        kind = kinds[rng.integers(len(kinds), size=size)]
        negative = np.where(kind == OWN_DOMAIN, every.of[x], every.of[other])

        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        vectors = torch.from_numpy(every.vectors[np.concatenate([target, negative])])
        style_target, style_negative = self.encoders.sample_style(vectors, generator).cpu().chunk(2)

        pixels = self.workspace.load(self.ids[np.concatenate([x, other])], self.encoders.size)
        mirrored = (rng.random(2 * size) < 0.5) & self.mirror
        pixels = mirrored_pixels(pixels, mirrored)
        return TripletBatch(
            images=torch.from_numpy(pixels[:size]),
            others=torch.from_numpy(pixels[size:]),
            style_target=style_target,
            style_negative=style_negative,
            kind=torch.from_numpy(kind),
        )

    def encode(self, batch: object, device: torch.device) -> Encoded:
        """The triplets of a `TripletBatch`."""
        assert isinstance(batch, TripletBatch)
        made = make_triplets(
            self.encoders,
            to_tensor(batch.images, device),
            to_tensor(batch.others, device),
            batch.style_target.to(device),
            batch.style_negative.to(device),
            batch.kind,
        )
        return Encoded(made.anchor, made.positive, (made.negative,), batch.kind.to(device, non_blocking=True))


@dataclass(frozen=True)
class PoolBatch:
    """content float16 [p, B, C, h, h] and style float32 [p, B, S]: anchor, positive, negatives; or the anchor alone."""

    content: Tensor
    style: Tensor
    kind: Tensor | None
    parts: PartsBatch | None


class FromPool:
    """Triplets chosen from a pool: one kind of negative each, or (`every`) all of `negatives`; `parts` adds what those
    read. Without any negatives: no triplets, only the images themselves, and where the pool has translations one of
    each as the positive."""

    def __init__(
        self,
        pool: TripletPool,
        negatives: tuple[NegativeKind, ...],
        *,
        every: bool,
        parts: bool = False,
        labels: NDArray[np.int8] | None = None,
    ) -> None:
        self.pool = pool
        self.sampler = PoolSampler(pool) if negatives else None
        self.kinds = np.array([NEGATIVES.index(kind) for kind in negatives])
        self.every, self.parts = every, parts
        self.labels = np.zeros((len(pool), 0), np.int8) if labels is None else labels

    def draw(self, rng: np.random.Generator, size: int) -> PoolBatch:
        """The contents and styles of `size` triplets."""
        pool = self.pool
        if self.sampler is None:
            image = rng.choice(len(pool), size, replace=size > len(pool))
            slots = [ITSELF] if pool.content.shape[1] == WITHOUT else [ITSELF, OWN]
            both = [np.stack([of[image, slot] for slot in slots]) for of in (pool.content, pool.style)]
            return PoolBatch(torch.from_numpy(both[0]), torch.from_numpy(both[1]), None, self._parts(image))
        chosen = self.sampler.draw(rng, size)
        image, here = chosen.image, np.full(size, ITSELF)
        table = {  # (image, slot) of each kind's content; its style is that slot's, for medium the positive's
            EASY: (chosen.easy, here),
            MEDIUM: (chosen.medium, chosen.medium_slot),
            HARD: (image, chosen.hard),
            OWN_DOMAIN: (image, np.full(size, OWN)),
        }
        kind = None if self.every else self.kinds[rng.integers(len(self.kinds), size=size)]
        entries = [(image, here), (image, chosen.target)]
        if kind is None:
            entries += [table[int(one)] for one in self.kinds]
        else:
            entries += [tuple(np.choose(kind, [table[one][side] for one in range(4)]) for side in (0, 1))]  # type: ignore[list-item]
        content = torch.from_numpy(np.stack([pool.content[rows, slots] for rows, slots in entries]))
        style = np.stack([pool.style[rows, slots] for rows, slots in entries])
        style[0] = pool.given[image, chosen.target]
        for place in range(2, len(style)):
            medium = self.kinds[place - 2] == MEDIUM if kind is None else (kind == MEDIUM)[:, None]
            style[place] = np.where(medium, style[1], style[place])
        parts = self._parts(image) if self.parts else None
        return PoolBatch(content, torch.from_numpy(style), None if kind is None else torch.from_numpy(kind), parts)

    def _parts(self, image: NDArray[np.int64]) -> PartsBatch:
        return PartsBatch(torch.from_numpy(self.pool.content[image, VIEW]), torch.from_numpy(self.labels[image]))

    def encode(self, batch: object, device: torch.device) -> Encoded:
        """The encodings of a `PoolBatch`, as they are: nothing is left to encode."""
        assert isinstance(batch, PoolBatch)
        content, style = batch.content.to(device, non_blocking=True).float(), batch.style.to(device, non_blocking=True)
        pairs = [Pair(c, s) for c, s in zip(content, style, strict=True)]
        parts = batch.parts
        if parts is not None:
            view = parts.view.to(device, non_blocking=True).float()
            parts = PartsBatch(view, parts.labels.to(device, non_blocking=True))
        kind = None if batch.kind is None else batch.kind.to(device, non_blocking=True)
        return Encoded(pairs[0], pairs[min(1, len(pairs) - 1)], tuple(pairs[2:]), kind, parts)

"""Stage 2 as a task of the training loop: what a step reads, what it does and what it tells.

A step is a pure function of (weights, seed, step): every draw comes from a generator seeded by the two
(dropout from torch's global one, which the loop seeds for each step), so that resuming needs no random
state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from retrieval.config import NEGATIVES, RetrievalConfig
from retrieval.domains import Domains
from retrieval.network import EmbeddingNetwork, make_network
from retrieval.protocol import Encoders, as_images
from retrieval.triplets import OWN_DOMAIN, Pair, TripletLoss, make_triplets

GRID_QUERIES, GRID_IMAGES, GRID_NEIGHBOURS = 6, 96, 5


@dataclass(frozen=True)
class TripletBatch:
    """What a step reads, on the host: images and others uint8 [B, H, W, 3], styles [B, S], kind int64 [B]."""

    images: Tensor
    others: Tensor
    style_target: Tensor
    style_negative: Tensor
    kind: Tensor


def learning_rate(config: RetrievalConfig, step: int) -> float:
    """The paper's schedule, a pure function of the step (from 0): halved every `halve_every` steps."""
    return config.learning_rate * 0.5 ** (step // config.halve_every)


class RetrievalTask:
    """Stage 2: trains the embedding network on triplets that a frozen translator makes.

    Reads the labelled real images of the workspace's training split. A bit that is unknown is taken from the
    image's own style; images without any used label are left out. `autocast()` surrounds the forward passes;
    `rank` tells the `world` processes of a distributed run apart: the same first weights, other triplets.
    """

    averaged: tuple[str, ...] = ()
    average_decay = 0.0

    def __init__(
        self,
        workspace: Workspace,
        encoders: Encoders,
        config: RetrievalConfig,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        mirror: bool = True,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.workspace, self.encoders, self.config = workspace, encoders, config
        self.seed, self.rank, self.mirror = seed, rank, mirror
        self.device, self.autocast = torch.device(device), autocast
        self.images_per_step = config.batch * world
        table = workspace.images("split=train origin=real")
        labels = table.labels[:, workspace.schema.indices(encoders.schema.names)]
        labelled = (labels >= 0).any(axis=1)
        self.ids: NDArray[np.int64] = table.ids[labelled]
        self.labels = complete_labels(workspace, encoders, self.ids, labels[labelled])
        self.domains = Domains(self.labels)
        if len(self.domains) < 2 or len(self.ids) - int(self.domains.counts.max()) < 2:
            raise RgunitError(
                f"triplets need training images of two label vectors or more: of {len(self.ids)} with labels of "
                f"{', '.join(encoders.schema.names)}, {int(self.domains.counts.max(initial=0))} share one; "
                f"add images or choose other --attributes-used"
            )
        with torch.random.fork_rng(devices=[]):  # the initial weights depend on the seed alone
            torch.manual_seed(seed)
            self.network: EmbeddingNetwork = make_network(
                config,
                content_channels=encoders.content_channels,
                content_size=encoders.size // 4,
                style_dim=encoders.style_dim,
            ).to(self.device)
        self.loss = TripletLoss(config.margin, config.distance)
        self.networks: dict[str, nn.Module] = {"embedding": self.network}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "embedding": torch.optim.SGD(self.network.parameters(), lr=config.learning_rate, momentum=config.momentum)
        }

    def learning_rates(self, step: int) -> dict[str, float]:
        """The learning rate of each optimiser at a step (from 0)."""
        return {"embedding": learning_rate(self.config, step)}

    def prepare(self, step: int) -> TripletBatch:
        """The triplets of a step as images and styles, drawn from (seed, step) alone; in any thread."""
        return self._draw(np.random.default_rng([self.seed, step, self.rank]), self.config.batch)

    def _draw(self, rng: np.random.Generator, size: int) -> TripletBatch:
        n, every = len(self.ids), self.domains
        x = rng.choice(n, size, replace=size > n)
        target = every.of[every.draw_outside(rng, every.of[x])]  # t ≠ i
        other = every.draw_outside(rng, target, not_image=x)  # x_r, r ≠ t
        kinds = np.array([NEGATIVES.index(kind) for kind in self.config.negatives])
        kind = kinds[rng.integers(len(kinds), size=size)]
        negative = np.where(kind == OWN_DOMAIN, every.of[x], every.of[other])

        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        vectors = torch.from_numpy(every.vectors[np.concatenate([target, negative])])
        style_target, style_negative = self.encoders.sample_style(vectors, generator).cpu().chunk(2)

        pixels = self.workspace.load(self.ids[np.concatenate([x, other])], self.encoders.size)
        mirrored = (rng.random(2 * size) < 0.5) & self.mirror
        pixels = np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
        return TripletBatch(
            images=torch.from_numpy(pixels[:size]),
            others=torch.from_numpy(pixels[size:]),
            style_target=style_target,
            style_negative=style_negative,
            kind=torch.from_numpy(kind),
        )

    def step(self, step: int, batch: TripletBatch) -> dict[str, Tensor]:
        """One update. Returns detached scalars; for a kind that the batch lacks, the mean over all triplets."""
        optimizer = self.optimizers["embedding"]
        self.network.train()
        with self.autocast():
            triplets = make_triplets(
                self.encoders,
                as_images(batch.images, self.device),
                as_images(batch.others, self.device),
                batch.style_target.to(self.device),
                batch.style_negative.to(self.device),
                batch.kind,
            )
            anchor, positive, negative = self._embed(triplets.anchor, triplets.positive, triplets.negative)
        loss, to_positive, to_negative = self.loss(anchor, positive, negative)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

        with torch.no_grad():
            kind = batch.kind.to(self.device, non_blocking=True)
            violation = self.config.margin + to_positive - to_negative
            told = {
                "loss": loss.detach(),
                "active": (violation > 0).float().mean(),
                "distance_positive": to_positive.mean(),
                "distance_negative": to_negative.mean(),
            }
            for name in self.config.negatives:
                rows = kind == NEGATIVES.index(name)
                told[f"loss_{name}"] = _mean_where(violation.clamp(min=0), rows)
                told[f"distance_{name}"] = _mean_where(to_negative, rows)
        return told

    def _embed(self, *pairs: Pair) -> tuple[Tensor, ...]:
        """One pass over all pairs; embeddings float32 [B, dim] each."""
        content = torch.cat([pair.content for pair in pairs])
        style = torch.cat([pair.style.to(pairs[0].style.dtype) for pair in pairs])
        return self.network(content, style).float().chunk(len(pairs))  # type: ignore[no-any-return]

    @torch.no_grad()
    def sample_grid(self, networks: Mapping[str, nn.Module]) -> NDArray[np.uint8]:
        """Rows of a query image, its translation to a drawn target, and the nearest of some training images.

        uint8 [6·size, 7·size, 3], the same images at every call. This stage averages no `networks`.
        """
        rng = np.random.default_rng([self.seed, GRID_IMAGES])
        batch = self._draw(rng, GRID_QUERIES)
        among = np.sort(rng.permutation(self.ids)[:GRID_IMAGES])
        pixels = self.workspace.load(among, self.encoders.size)
        self.network.eval()
        with self.autocast():
            candidates = as_images(pixels, self.device)
            images, style = as_images(batch.images, self.device), batch.style_target.to(self.device)
            content = self.encoders.content(images)
            queries = self.network(content, style).float()
            known = self.network(self.encoders.content(candidates), self.encoders.style(candidates)).float()
            made = self.encoders.translate(images, content, style).image.float()
        nearest = torch.cdist(queries, known).argsort(dim=1)[:, :GRID_NEIGHBOURS].cpu().numpy()
        shown = made.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        rows = [
            np.concatenate([source, translation, *pixels[row]], axis=1)
            for source, translation, row in zip(batch.images.numpy(), shown, nearest, strict=True)
        ]
        return np.concatenate(rows, axis=0)

    def health(self, metrics: Mapping[str, float]) -> str | None:
        """A warning where the embedding has collapsed: all distances far below the margin."""
        if max(metrics["distance_positive"], metrics["distance_negative"]) < 0.01 * self.config.margin:
            return "all embeddings fall on one point: lower retrieval.learning_rate or raise retrieval.margin"
        return None


def complete_labels(
    workspace: Workspace,
    encoders: Encoders,
    ids: NDArray[np.int64],
    labels: NDArray[np.int8],
    batch: int = 64,
) -> NDArray[np.int8]:
    """labels int8 [n, A] with each unknown bit replaced by what the image's own style says."""
    labels = labels.copy()
    rows = np.flatnonzero((labels < 0).any(axis=1))
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        with torch.no_grad():
            images = as_images(workspace.load(ids[some], encoders.size), encoders.device)
            read = encoders.style_labels(encoders.style(images).float()).cpu().numpy()
        labels[some] = np.where(labels[some] < 0, read, labels[some])
    return labels


def _mean_where(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of values [B] over the rows bool [B], over all if there are none; never waits for the device."""
    weight = torch.where(rows.any(), rows.float(), 1.0)
    return (values * weight).sum() / weight.sum()

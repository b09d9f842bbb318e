"""Stage 2 as a task of the training loop: what a step reads, what it does and what it tells.

A step is a pure function of (weights, seed, step): every draw comes from a generator seeded by the two
(dropout from torch's global one, which the loop seeds for each step), so that resuming needs no random
state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from retrieval.config import NEGATIVES, NegativeKind, RetrievalConfig
from retrieval.domains import Domains
from retrieval.network import Network, PartsNetwork, make_network
from retrieval.objectives import labels_loss, make_objective
from retrieval.pool import open_pool
from retrieval.protocol import Encoders
from retrieval.sources import Encoded, FromPool, MadeAnew, Source
from retrieval.tensors import first_weights, to_pixels, to_tensor
from retrieval.triplets import Pair

GRID_QUERIES, GRID_IMAGES, GRID_NEIGHBOURS = 6, 96, 5
READ = 64  # images whose styles are read at once


def learning_rate(config: RetrievalConfig, step: int) -> float:
    """The paper's schedule, a pure function of the step (from 0): halved every `halve_every` steps."""
    return config.learning_rate * 0.5 ** (step // config.halve_every)


class RetrievalTask:
    """Stage 2: trains the embedding network on triplets that a frozen translator makes.

    Reads the labelled real images of the workspace's training split, as a pool of encodings that is made first
    (or, with `pool` 0, image by image). A bit that is unknown is taken from the
    image's own style; images without any used label are left out. `autocast()` surrounds the forward passes;
    `rank` tells the `world` processes of a distributed run apart: the same first weights, other triplets.

    Of a translator without a style it trains the content vector alone, on all images of the training split that no
    model made, labelled or not: an image, its translation and a changed view of it are one, other images are not.
    RgunitError for an objective that needs a style.
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
        pool_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.workspace, self.encoders, self.config = workspace, encoders, config
        self.seed, self.rank, self.mirror = seed, rank, mirror
        self.device, self.autocast = torch.device(device), autocast
        self.images_per_step = config.batch * world
        self.styled = encoders.style_dim > 0
        self.ids, self.labels = self._images()
        self.domains = Domains(self.labels)
        self._check()
        self.anew = MadeAnew(workspace, encoders, self.ids, self.domains, config.negatives, mirror=mirror)
        self.source: Source = self.anew
        others = np.zeros((0, 0), np.int8)
        if config.pool:
            self.source, others = self._pool(pool_progress)
        self.network = first_weights(seed, lambda: self._network(others))
        self.objective = make_objective(config, self.network.dim).to(self.device)
        self.networks: dict[str, nn.Module] = {"embedding": self.network}
        weights = self.network.parameters()
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "embedding": torch.optim.SGD(weights, lr=config.learning_rate, momentum=config.momentum)
            if config.optimizer == "sgd"
            else torch.optim.Adam(weights, lr=config.learning_rate)
        }

    @property
    def learned(self) -> NDArray[np.int64]:
        """The ids of the images that are learned from."""
        return self.ids

    def _network(self, others: NDArray[np.int8]) -> Network:
        """A fresh network; one of parts takes statistics of the pool, and of its images' `others` [n, O]."""
        encoders = self.encoders
        network: Network = make_network(
            self.config,
            content_channels=encoders.content_channels,
            content_size=encoders.size // 4,
            style_dim=encoders.style_dim,
            labels=others.shape[1],
        ).to(self.device)
        if isinstance(network, PartsNetwork) and isinstance(self.source, FromPool):
            contents, styles = self.source.pool.statistics()
            network.fit(contents, styles.to(self.device), torch.from_numpy(others).to(self.device))
        return network

    def _images(self) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """The images to learn from: ids [n] and labels int8 [n, A] of used attributes, all known or (no style) none."""
        workspace, encoders = self.workspace, self.encoders
        names = encoders.schema.names
        if not self.styled:
            ids = workspace.images("split=train origin=real|unlabelled").ids
            return ids, np.full((len(ids), len(names)), -1, np.int8)
        table = workspace.images("split=train origin=real")
        labels = table.labels[:, workspace.schema.indices(names)]
        labelled = (labels >= 0).any(axis=1)
        ids = table.ids[labelled]
        return ids, complete_labels(workspace, encoders, ids, labels[labelled])

    def _check(self) -> None:
        """Raises RgunitError where these images, or this translator, cannot teach what is asked."""
        config, count = self.config, len(self.ids)
        if not self.styled:
            if config.objective != "parts":
                raise RgunitError(
                    f"retrieval.objective={config.objective} joins content and style, and this translator has no "
                    "style: --set retrieval.objective=parts --set retrieval.pool=1 learns content alone"
                )
            if count < 2:
                raise RgunitError(
                    f"content is learned from two training images or more, and there are {count}: add some"
                )
            return
        most = int(self.domains.counts.max(initial=0))
        if len(self.domains) < 2 or count - most < 2:
            raise RgunitError(
                f"triplets need training images of two label vectors or more: of {count} with labels of "
                f"{', '.join(self.encoders.schema.names)}, {most} share one; "
                f"add images or choose other --attributes-used"
            )

    def _pool(self, progress: Callable[[int, int], None] | None) -> tuple[FromPool, NDArray[np.int8]]:
        """Triplets from a pool, and its images' other attributes int8 [n, O] where the content is taught them."""
        config, others = self.config, np.zeros((len(self.ids), 0), np.int8)
        parts = config.objective == "parts"
        labels_teach = config.content_teacher == "labels" or (config.content_teacher == "auto" and self.styled)
        if parts and labels_teach:
            used = self.workspace.schema.indices(self.encoders.schema.names)
            others = np.delete(self.workspace.images(ids=self.ids).labels, used, axis=1)
            if not (others >= 0).any():
                others = others[:, :0]
        if parts and config.content_teacher == "labels" and not others.shape[1]:
            raise RgunitError(
                "retrieval.content_teacher=labels needs attributes beside those in use, and there are none: "
                "set it to views, or choose fewer --attributes-used"
            )
        taught = others.shape[1] > 0
        pool = open_pool(
            self.workspace,
            self.encoders,
            self.ids,
            self.labels,
            gigabytes=config.pool,
            translations=not taught,
            progress=progress,
        )
        labels = others[np.searchsorted(self.ids, pool.ids)]
        other: tuple[NegativeKind, ...] = () if taught or not self.styled else ("medium",)
        negatives = other if parts else config.negatives
        return FromPool(pool, negatives, every=config.objective != "triplet", parts=parts, labels=labels), labels

    def learning_rates(self, step: int) -> dict[str, float]:
        """The learning rate of each optimiser at a step (from 0)."""
        return {"embedding": learning_rate(self.config, step)}

    def prepare(self, step: int) -> object:
        """The triplets of a step on the host, drawn from (seed, step) alone; in any thread."""
        return self.source.draw(np.random.default_rng([self.seed, step, self.rank]), self.config.batch)

    def step(self, step: int, batch: object) -> dict[str, Tensor]:
        """One update. Returns detached scalars; for a kind that the batch lacks, the mean over all triplets."""
        optimizer = self.optimizers["embedding"]
        self.network.train()
        with self.autocast():
            encoded = self.source.encode(batch, self.device)
            loss, told = self._parts(encoded) if isinstance(self.network, PartsNetwork) else self._joint(encoded)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        return {"loss": loss.detach(), **told}

    def _joint(self, encoded: Encoded) -> tuple[Tensor, dict[str, Tensor]]:
        """One embedding of content and style together."""
        pairs = (encoded.anchor, encoded.positive, *encoded.negatives)
        anchor, positive, *negatives = self._embed(*pairs)
        loss = self.objective(anchor, positive, torch.stack(negatives))
        with torch.no_grad():
            to_positive = self._distance(anchor, positive)
            to_negative = torch.stack([self._distance(anchor, negative) for negative in negatives])
            violation = self.config.margin + to_positive - to_negative
            told = {
                "active": (violation > 0).float().mean(),
                "distance_positive": to_positive.mean(),
                "distance_negative": to_negative.mean(),
            }
            for place, name in enumerate(self.config.negatives):
                if encoded.kind is None:
                    rows, part = torch.ones_like(to_positive, dtype=torch.bool), place
                else:
                    rows, part = encoded.kind == NEGATIVES.index(name), 0
                told[f"loss_{name}"] = _mean_where(violation[part].clamp(min=0), rows)
                told[f"distance_{name}"] = _mean_where(to_negative[part], rows)
        return loss, told

    def _parts(self, encoded: Encoded) -> tuple[Tensor, dict[str, Tensor]]:
        """Content alone; the style is read as it is."""
        network, parts = self.network, encoded.parts
        assert isinstance(network, PartsNetwork) and parts is not None
        if network.labels:
            loss = labels_loss(
                network.read(torch.cat([encoded.anchor.content, parts.view])).float(), parts.labels.repeat(2, 1)
            )
            return loss, {}
        medium = [pair.content for pair in encoded.negatives]
        content = network.content_vector(
            torch.cat([encoded.anchor.content, encoded.positive.content, parts.view, *medium])
        )
        content = content.view(-1, len(parts.view), content.shape[1])
        loss = self.objective(content[0], content[1:3], content[3:])
        with torch.no_grad():
            told = {
                "distance_positive": torch.linalg.vector_norm(content[0] - content[1], dim=1).mean(),
                "distance_view": torch.linalg.vector_norm(content[0] - content[2], dim=1).mean(),
                "distance_negative": torch.linalg.vector_norm(content[0] - content[0].roll(1, 0), dim=1).mean(),
            }
        return loss, told

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        gap: Tensor = torch.linalg.vector_norm(a - b, dim=1)
        return gap.square() if self.config.distance == "squared" else gap

    def _embed(self, *pairs: Pair) -> tuple[Tensor, ...]:
        """One pass over all pairs; embeddings float32 [B, dim] each."""
        content = torch.cat([pair.content for pair in pairs])
        style = torch.cat([pair.style.to(pairs[0].style.dtype) for pair in pairs])
        embedded: Tensor = self.network(content, style)
        return embedded.float().chunk(len(pairs))

    @torch.no_grad()
    def sample_grid(self, networks: Mapping[str, nn.Module]) -> NDArray[np.uint8]:
        """Rows of a query image, its translation to a drawn target, and the nearest of some training images.

        uint8 [6·size, 7·size, 3], the same images at every call. This stage averages no `networks`.
        """
        rng = np.random.default_rng([self.seed, GRID_IMAGES])
        if self.styled:
            batch = self.anew.draw(rng, GRID_QUERIES)
            asked, style = batch.images.numpy(), batch.style_target.to(self.device)
            among = np.sort(rng.permutation(self.ids)[:GRID_IMAGES])
        else:  # it is the same content that is looked for, so an image would find itself
            order = rng.permutation(self.ids)
            first = min(GRID_QUERIES, len(order) - 1)
            asked, style = self.workspace.load(order[:first], self.encoders.size), torch.zeros(first, 0).to(self.device)
            among = np.sort(order[first : first + GRID_IMAGES])
        pixels = self.workspace.load(among, self.encoders.size)
        self.network.eval()
        with self.autocast():
            candidates = to_tensor(pixels, self.device)
            images = to_tensor(asked, self.device)
            content = self.encoders.content(images)
            queries = self.network(content, style).float()
            known = self.network(self.encoders.content(candidates), self.encoders.style(candidates)).float()
            made = self.encoders.translate(images, content, style).image
        nearest = torch.cdist(queries, known).argsort(dim=1)[:, :GRID_NEIGHBOURS].cpu().numpy()
        rows = [
            np.concatenate([source, translation, *pixels[row]], axis=1)
            for source, translation, row in zip(asked, to_pixels(made), nearest, strict=True)
        ]
        return np.concatenate(rows, axis=0)

    def health(self, metrics: Mapping[str, float]) -> str | None:
        """A warning where the embedding has collapsed: all distances far below the margin."""
        if (
            max(metrics.get("distance_positive", 1.0), metrics.get("distance_negative", 1.0))
            < 0.01 * self.config.margin
        ):
            return "all embeddings fall on one point: lower retrieval.learning_rate or raise retrieval.margin"
        return None


def complete_labels(
    workspace: Workspace, encoders: Encoders, ids: NDArray[np.int64], labels: NDArray[np.int8]
) -> NDArray[np.int8]:
    """labels int8 [n, A] with each unknown bit replaced by what the image's own style says."""
    labels = labels.copy()
    rows = np.flatnonzero((labels < 0).any(axis=1))
    for start in range(0, len(rows), READ):
        some = rows[start : start + READ]
        with torch.no_grad():
            images = to_tensor(workspace.load(ids[some], encoders.size), encoders.device)
            read = encoders.style_labels(encoders.style(images).float()).cpu().numpy()
        labels[some] = np.where(labels[some] < 0, read, labels[some])
    return labels


def _mean_where(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of values [B] over the rows bool [B], over all if there are none; never waits for the device."""
    weight = torch.where(rows.any(), rows.float(), 1.0)
    return (values * weight).sum() / weight.sum()

"""Stages 1 and 3 of any method as one task of the training loop: what a step draws, and how its losses are descended.

Nothing here knows a method: it runs what `translation.methods.Method` promises.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from index_store.workspace import Workspace
from retrieval.tensors import as_picture, mirrored_pixels, to_tensor
from translation.guidance import Guide
from translation.methods import Encodes, Generates, Joins, Loss, Measures, Steps, Trains
from translation.pairing import members
from translation.runs import TRANSLATION
from translation.sampling import Batch, CropSampler, Draw, Sampler
from translation.sections import DataConfig, StageConfig, TrainingConfig
from translation.training.compiling import compile_networks
from translation.training.health import Health, look

GRID_SOURCES, GRID_TARGETS = 6, 4

DRAWN = 4, 8  # rows and columns of a sample picture of images from noise

Autocast = Callable[[], AbstractContextManager[object]]


class Guiding(Protocol):
    """What shows a batch its neighbours: `translation.neighbours.Guiding`."""

    def __call__(self, step: int, batch: Batch, ids: NDArray[np.int64]) -> Batch: ...

    def guide(
        self, images: Tensor, content: Tensor, style: Tensor, ids: NDArray[np.int64]
    ) -> tuple[Guide | None, Tensor]:
        """For a sample picture: the neighbours' content and the style that they make of `style`."""

    @property
    def learned(self) -> tuple[NDArray[np.int64], ...]:
        """The ids of the images that may be shown."""

    def watch(self, batch: Batch) -> dict[str, Tensor]:
        """Whether the step on the batch used its neighbours."""


@dataclass
class Engine:
    """Descends the losses that a step yields.

    Each loss is made under autocast and descended outside it by the gradients of its players' weights alone: nothing
    has to be frozen by hand, and an exception in the middle leaves no half-frozen network. `scaler` keeps gradients in
    the range of fp16.
    """

    optimizers: Mapping[str, torch.optim.Optimizer]
    autocast: Autocast = nullcontext
    scaler: torch.amp.GradScaler | None = None
    made: Tensor | None = None
    """What the last step returned: its fakes."""

    def run(self, steps: Steps) -> dict[str, Tensor]:
        """One step; its terms by name, detached. Of terms that come again the mean."""
        told: dict[str, list[Tensor]] = {}
        while True:
            try:
                with self.autocast():
                    loss = next(steps)
            except StopIteration as end:
                self.made = end.value
                break
            prefix = f"{loss.players[0]}/" if loss.players else ""
            for name, value in loss.terms.items():
                told.setdefault(prefix + name, []).append(value.detach())
            if loss.players:
                self._descend(loss)
        return {name: values[0] if len(values) == 1 else torch.stack(values).mean() for name, values in told.items()}

    def _descend(self, loss: Loss) -> None:
        weights = {player: _trained(self.optimizers[player]) for player in loss.players}
        chosen = [self.optimizers[player] for player, theirs in weights.items() if theirs]
        inputs = [weight for theirs in weights.values() for weight in theirs]
        if not inputs:  # a network without parameters has nothing to learn
            return
        for optimizer in chosen:
            optimizer.zero_grad(set_to_none=True)
        total = torch.stack([loss.weights.get(name, 1.0) * value for name, value in loss.terms.items()]).sum()
        scaled = total if self.scaler is None else self.scaler.scale(total)
        torch.autograd.backward(scaled, inputs=inputs)
        for optimizer in chosen:
            if self.scaler is None:
                optimizer.step()
            else:
                self.scaler.unscale_(optimizer)
                self.scaler.step(optimizer)
        if self.scaler is not None:
            self.scaler.update()


def _trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


class MethodTask:
    """A method's training on the batches of `draws`, in stage 3 with what `guiding` shows them (None: nothing).

    `name` is that of the section `stage`. `watched` is a filter: which of the held-out images sample pictures and
    measures are of (empty: all).
    """

    def __init__(
        self,
        workspace: Workspace,
        schema: AttributeSchema,
        method: Trains,
        draws: Sampler,
        *,
        stage: StageConfig,
        name: str = TRANSLATION,
        data: DataConfig,
        training: TrainingConfig,
        guiding: Guiding | None = None,
        watched: str = "",
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        autocast: Autocast = nullcontext,
    ) -> None:
        self.workspace, self.schema, self.method, self.draws = workspace, schema, method, draws
        self.stage, self.size, self.guiding = stage, data.size, guiding
        self.seed, self.rank, self.device = seed, rank, torch.device(device)
        self.images_per_step = stage.batch * world
        self.average_decay = stage.average
        self.networks: dict[str, nn.Module] = method.networks
        self.averaged = method.averaged
        for network in (*self.networks.values(), *getattr(method, "helpers", ())):
            network.to(self.device)
        if training.channels_last:
            for network in self.networks.values():
                network.to(memory_format=torch.channels_last)
        self.players = method.players
        fused = {"fused": True} if self.device.type in ("cpu", "cuda") else {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(  # a group, which may be empty: a list may not
                [{"params": [p for network in player.networks for p in self.networks[network].parameters()]}],
                player.learning_rate,
                player.betas,
                **fused,
            )
            for name, player in self.players.items()
        }
        self.scaler = torch.amp.GradScaler(self.device.type) if training.precision == "16-mixed" else None
        self.autocast = autocast
        self.engine = Engine(self.optimizers, autocast, self.scaler)
        self.shown: list[int] | None = None  # ids of what can be seen in the last sample picture
        self._health = Health(method, stage, name)
        self._made: Tensor | None = None
        self._before: tuple[Tensor, Tensor] | None = None  # the last image that was looked at, and what was made of it
        if not isinstance(draws, CropSampler):
            ids, labels = held_out(workspace, schema, watched)
            if isinstance(method, Joins):
                own = members(labels) >= 0
                ids, labels = ids[own], labels[own]
            self._held_out = ids, labels
        if training.compile:
            compile_networks({name: self.networks[name] for one in self.players.values() for name in one.networks})

    @property
    def learned(self) -> NDArray[np.int64]:
        """The ids of the images that are learned from: those that are drawn, and those that guide."""
        drawn = [np.ravel(ids) for ids in (*self.draws.learned, *(self.guiding.learned if self.guiding else ()))]
        return np.unique(np.concatenate(drawn).astype(np.int64))

    def learning_rates(self, step: int) -> dict[str, float]:
        return {name: player.learning_rate * player.decay(step) for name, player in self.players.items()}

    def prepare(self, step: int) -> Batch:
        """The step's batch on the device, with a few held-out images for a method that measures something on them."""
        draw = self.draws.draw(step)
        batch = self._batch(draw)
        if self.guiding is not None:
            batch = self.guiding(step, batch, draw.ids)
        if not isinstance(self.method, Measures):
            return batch
        ids, labels = self._held_out
        rows = np.random.default_rng([self.seed, 3, step]).integers(len(ids), size=max(1, self.stage.batch // 2))
        watched = to_tensor(self.workspace.load(ids[rows], self.size), self.device)
        return replace(batch, held_out=(watched, torch.from_numpy(labels[rows]).to(self.device)))

    def _batch(self, draw: Draw) -> Batch:
        references = None
        if draw.crops is not None:
            images, references = (to_tensor(crops, self.device) for crops in draw.crops)
        else:
            images = self._images(draw.ids, draw.mirrored)
        if draw.references is not None and draw.references_mirrored is not None:
            references = self._images(draw.references, draw.references_mirrored)
        return Batch(
            images=images,
            labels=torch.from_numpy(draw.labels).to(self.device),
            target=torch.from_numpy(draw.target).to(self.device),
            noise=draw.noise.to(self.device),
            references=references,
            domains=draw.domains,
            parts=None if draw.parts is None else torch.from_numpy(draw.parts.copy()).to(self.device),
            hops=tuple(
                tuple((torch.from_numpy(target).to(self.device), noise.to(self.device)) for target, noise in chain)
                for chain in draw.hops
            ),
        )

    def _images(self, ids: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> Tensor:
        return to_tensor(mirrored_pixels(self.workspace.load(ids, self.size), mirrored), self.device)

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        terms = self.engine.run(self.method.step(batch, step))
        self._made = None if step < getattr(self.stage, "warmup", 0) else self.engine.made  # of the batch itself
        terms = self._hops(step, batch, terms)
        return terms | self.method.measure(batch) if isinstance(self.method, Measures) else terms

    def _hops(self, step: int, batch: Batch, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """The chains of translations behind the first, each hop a step of its own: the mean of every step's terms."""
        found = [terms]
        for chain in batch.hops if step >= getattr(self.stage, "warmup", 0) else ():
            hop = replace(batch, hops=(), real=(batch.images, batch.labels))
            for target, noise in chain:
                hop = replace(hop, target=target, noise=noise)
                found.append(self.engine.run(self.method.step(hop, step)))
                assert self.engine.made is not None
                # What is made has the labels that it should have, perhaps: nothing is to be learned from them.
                hop = replace(hop, images=self.engine.made.detach(), labels=torch.full_like(target, -1))
        if len(found) == 1:
            return terms
        return {name: torch.stack([one[name] for one in found if name in one]).mean() for name in terms}

    def watch(self, batch: Batch) -> dict[str, Tensor]:
        """What is measured where metrics are logged, right after the step on the batch."""
        with self.autocast():
            found: dict[str, Tensor] = {}
            if self._made is not None:
                found = look(self.method, batch, self._made, self._before)
                self._before = batch.images[-1:].clone(), self._made[-1:].clone()
            return found if self.guiding is None else found | self.guiding.watch(batch)

    def health(self, metrics: Mapping[str, float]) -> str | None:
        return self._health.judge(metrics)

    @torch.no_grad()
    def sample_grid(self, networks: Mapping[str, nn.Module]) -> NDArray[np.uint8] | None:
        """Rows of a held-out image, what its own style gives back, its translations to drawn targets, the last mask.

        Of a method that makes images from noise some of them.
        """
        if isinstance(self.method, Generates):
            self.shown = []
            return self._drawn(networks)
        if not isinstance(self.method, Encodes):
            return None
        rng = np.random.default_rng([self.seed, 4])
        if isinstance(self.draws, CropSampler):
            chosen, shown = np.full(1, -1), self.draws.whole()
        else:
            ids, labels = self._held_out
            rows = rng.choice(len(ids), min(GRID_SOURCES, len(ids)), replace=False)
            chosen = ids[rows]
            self.shown = chosen.tolist() if self.guiding is None else None  # what guides may lend its pixels
            shown = self.workspace.load(chosen, self.size)
        images = to_tensor(shown, self.device)
        method = with_networks(self.method, {name: network.eval() for name, network in networks.items()})
        if isinstance(method, Joins):
            method = method.from_domains(torch.from_numpy(labels[rows]).to(self.device))
        content, columns = method.content(images), [images]
        if method.style_dim:
            columns.append(method.decode(content, method.style(images), images).raw)
        generator = torch.Generator().manual_seed(self.seed)
        mask = None
        for _ in range(GRID_TARGETS if method.style_dim else 1):
            target = self.draws.labels[rng.integers(len(self.draws.labels), size=len(chosen))]
            style = method.sample_style(torch.from_numpy(np.maximum(target, 0)), generator).to(self.device)
            guide = None
            if self.guiding is not None:
                guide, style = self.guiding.guide(images, content, style, chosen)
            made = method.decode(content, style, images, guide)
            mask = made.mask
            columns.append(made.image)
        if mask is not None:
            columns.append((mask * 2 - 1).expand_as(images))
        return as_picture(torch.stack([column.float() for column in columns], 1))

    def _drawn(self, networks: Mapping[str, nn.Module]) -> NDArray[np.uint8]:
        """Images that the (averaged) networks make of the same noise in every picture."""
        method = with_networks(self.method, {name: copy.deepcopy(network) for name, network in networks.items()})
        method.settle()
        generator = torch.Generator().manual_seed(self.seed)
        anything = torch.full((len(method.schema.names),), -1, dtype=torch.int8)
        labels = torch.stack([method.draw_labels(anything, generator) for _ in range(math.prod(DRAWN))])
        noise = torch.randn(len(labels), method.noise_length, generator=generator)
        made = method.generate(noise.to(self.device), labels.to(self.device))
        return as_picture(made.view(*DRAWN, *made.shape[1:]))


def with_networks(method: Any, networks: Mapping[str, nn.Module]) -> Any:
    """The method with other networks (their moving averages) in use."""
    other = copy.copy(method)
    other.networks = {**method.networks, **networks}
    return other


def held_out(
    workspace: Workspace, schema: AttributeSchema, where: str = ""
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Ids and used labels of the labelled test images that a filter passes; of training images where there are none."""
    for among in ("split=test origin=real", "origin=real"):
        table = workspace.images(f"{among} {where}".strip())
        labels = table.labels[:, workspace.schema.indices(schema.names)]
        known = (labels >= 0).any(axis=1)
        if known.any():
            break
        if where and len(table):  # a domain is chosen by the filter: its images need no label in use
            return table.ids, labels
    return table.ids[known], labels[known]

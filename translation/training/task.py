"""Stages 1 and 3 as tasks of the training loop: what a step draws, and which networks its update trains."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from index_store.workspace import Workspace
from retrieval.tensors import to_pixels, to_tensor
from translation.config import Config, StageConfig
from translation.guidance import Guidance, Guided, build_guidance, draw_hidden, draw_shown
from translation.methods.gmm_unit import Batch, GmmUnit, build_networks
from translation.neighbours import Neighbours
from translation.networks.vgg import VGG
from translation.objectives import blend
from translation.objectives.style import sample_style, style_labels
from translation.sampling import Draw, Sampler, mirrored_pixels
from translation.training.compiling import compile_networks
from translation.translator import Autocast, Translator

GRID_SOURCES, GRID_TARGETS = 6, 4
MASK_CLOSED, MASK_OPEN = 0.02, 0.98


class TranslationTask:
    """Stage 1: GMM-UNIT from scratch on the labelled training images."""

    def __init__(
        self,
        workspace: Workspace,
        config: Config,
        schema: AttributeSchema,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        autocast: Autocast = nullcontext,
    ) -> None:
        self.workspace, self.config, self.schema = workspace, config, schema
        self.seed, self.rank, self.device = seed, rank, torch.device(device)
        self.stage = self._stage_config()
        self.images_per_step = self.stage.batch * world
        self.average_decay = self.stage.average
        self.sampler = Sampler(
            workspace,
            schema.names,
            batch=self.stage.batch,
            seed=seed,
            rank=rank,
            world=world,
            mirror=config.data.mirror,
            groups=[schema.indices(group) for group in schema.groups],
        )
        self._held_out = _held_out(workspace, schema)
        with torch.random.fork_rng(devices=[]):  # the first weights depend on the seed alone
            torch.manual_seed(seed)
            self.networks = self._make_networks()
        for network in self.networks.values():
            network.to(self.device)
            if config.training.channels_last:
                network.to(memory_format=torch.channels_last)
        fused = {"fused": True} if self.device.type in ("cpu", "cuda") else {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            optimizer: torch.optim.Adam(
                [p for name in names for p in self.networks[name].parameters()],
                self.stage.learning_rate,
                self.stage.betas,
                **fused,
            )
            for optimizer, names in self.trained.items()
        }
        self.scaler = torch.amp.GradScaler(self.device.type) if config.training.precision == "16-mixed" else None
        weights = config.networks.perceptual_weights
        vgg = VGG(Path(weights).expanduser()).to(self.device) if weights and self.stage.weights.perceptual else None
        self.method = GmmUnit(
            self.networks,
            self.stage,
            autocast,
            groups=[schema.indices(group) for group in schema.groups],
            fusion=self.networks.get("fusion"),  # type: ignore[arg-type]
            train_encoders="content_encoder" in self.trained["generator"],
            vgg=vgg,
            scaler=self.scaler,
        )
        if config.training.compile:
            compile_networks({name: self.networks[name] for names in self.trained.values() for name in names})

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(name for name in self.networks if name != "discriminator")

    @property
    def trained(self) -> dict[str, tuple[str, ...]]:
        """The networks that each optimiser updates."""
        return {
            "generator": ("content_encoder", "style_encoder", "generator"),
            "discriminator": ("discriminator",),
        }

    def _stage_config(self) -> StageConfig:
        return self.config.translation

    def _make_networks(self) -> dict[str, nn.Module]:
        return build_networks(self.config, len(self.schema.names))

    def learning_rates(self, step: int) -> dict[str, float]:
        factor = 0.5 ** (step // self.stage.halve_every)
        other = self.stage.discriminator_learning_rate or self.stage.learning_rate
        return {"generator": self.stage.learning_rate * factor, "discriminator": other * factor}

    def prepare(self, step: int) -> tuple[Batch, Tensor, Tensor]:
        """The step's batch on the device, and a few held-out images with labels to watch E_s by."""
        draw = self.sampler.draw(step)
        pixels = mirrored_pixels(self.workspace.load(draw.ids, self.config.data.size), draw.mirrored)
        batch = self._batch(step, draw, to_tensor(pixels, self.device))
        ids, labels = self._held_out
        rows = np.random.default_rng([self.seed, 3, step]).integers(len(ids), size=max(1, self.stage.batch // 2))
        watched = to_tensor(self.workspace.load(ids[rows], self.config.data.size), self.device)
        return batch, watched, torch.from_numpy(labels[rows]).to(self.device)

    def _batch(self, step: int, draw: Draw, images: Tensor) -> Batch:
        noise = draw.noise.to(self.device)
        return Batch(
            images=images,
            labels=torch.from_numpy(draw.labels).to(self.device),
            target=torch.from_numpy(draw.target).to(self.device),
            noise=noise[0],
            second_noise=noise[1],
            source_noise=noise[2],
        )

    def step(self, step: int, batch: tuple[Batch, Tensor, Tensor]) -> dict[str, Tensor]:
        images, watched, labels = batch
        kl_weight = self.stage.weights.kl * _ramp(step, self.stage.kl_warmup)
        update = self.method.warm_up if step < self.stage.warmup else self.method.step
        terms = update(images, self.optimizers, kl_weight)
        with torch.no_grad():
            style, _ = self.networks["style_encoder"](watched)
            known = labels >= 0
            terms["style_accuracy"] = ((style_labels(style) == labels) & known).sum() / known.sum().clamp(min=1)
        return terms

    def watch(self, batch: tuple[Batch, Tensor, Tensor]) -> dict[str, Tensor]:
        """What is measured where metrics are logged, right after the step on the batch."""
        return self.method.watch(batch[0])

    def health(self, metrics: Mapping[str, float]) -> str | None:
        mask = metrics["mask_mean"]
        if mask < MASK_CLOSED:
            return f"the mask has closed (mean {mask:.3f}): the input is copied and nothing is learned"
        if mask > MASK_OPEN:
            return f"the mask is wide open (mean {mask:.3f}): the source's pixels are not used"
        return None

    @torch.no_grad()
    def sample_grid(self, networks: Mapping[str, nn.Module]) -> NDArray[np.uint8]:
        """Rows of a held-out image, its reconstruction, its translations to drawn targets and the last one's mask."""
        ids, _ = self._held_out
        rng = np.random.default_rng([self.seed, 4])
        chosen = ids[rng.choice(len(ids), min(GRID_SOURCES, len(ids)), replace=False)]
        images = to_tensor(self.workspace.load(chosen, self.config.data.size), self.device)
        networks = {name: network.eval() for name, network in networks.items()}
        content = networks["content_encoder"](images)
        own = networks["style_encoder"](images)[0]
        columns = [images, networks["generator"](content, own)[0]]
        generator = torch.Generator().manual_seed(self.seed)
        mask = images[:, :1]
        for _ in range(GRID_TARGETS):
            target = self.sampler.labels[rng.integers(len(self.sampler.labels), size=len(chosen))]
            style = sample_style(torch.from_numpy(np.maximum(target, 0)), generator).to(self.device)
            guided, style = self._grid_input(networks, content, style, chosen)
            raw, mask = networks["generator"](guided.content, style)
            if isinstance(fusion := networks.get("fusion"), Guidance):
                raw = fusion.paint(raw, mask, guided, images)
            columns.append(blend(raw, mask, images))
        columns.append((mask * 2 - 1).expand_as(images))
        grid = torch.stack(columns, 1)  # [sources, columns, 3, H, W]
        n, m, _, h, w = grid.shape
        return to_pixels(grid.permute(0, 2, 3, 1, 4).reshape(n, 3, h, m * w)).reshape(n * h, m * w, 3)

    def _grid_input(
        self, networks: Mapping[str, nn.Module], content: Tensor, style: Tensor, ids: NDArray[np.int64]
    ) -> tuple[Guided, Tensor]:
        return Guided(content), style


class GuidedTask(TranslationTask):
    """Stage 3: generator and discriminator go on from stage 1 with frozen encoders, guided by neighbours or not.

    `neighbours` None is the arm “none”: the same steps without fusion. Raises RgunitError where the checkpoint of
    stage 1 is another schema's. What a step shows of the neighbours (`neighbour_dropout`, `random_k`,
    `content_dropout`) is drawn on the host from (seed, step), like everything else.
    """

    def __init__(
        self,
        workspace: Workspace,
        config: Config,
        source: Translator,
        discriminator: nn.Module,
        neighbours: Neighbours | None,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        autocast: Autocast = nullcontext,
    ) -> None:
        self._source, self._discriminator, self._neighbours = source, discriminator, neighbours
        super().__init__(
            workspace,
            config,
            source.schema,
            seed=seed,
            rank=rank,
            world=world,
            device=device,
            autocast=autocast,
        )
        for name in ("content_encoder", "style_encoder"):
            self.networks[name].requires_grad_(False).eval()

    @property
    def trained(self) -> dict[str, tuple[str, ...]]:
        names: dict[str, tuple[str, ...]] = {"generator": ("generator",), "discriminator": ("discriminator",)}
        return names | {"fusion": ("fusion",)} if "fusion" in self.networks else names

    def learning_rates(self, step: int) -> dict[str, float]:
        rates, g = super().learning_rates(step), self.config.guided
        if "fusion" in self.networks:
            rates["fusion"] = rates["generator"] * ((g.fusion_learning_rate or g.learning_rate) / g.learning_rate)
        return rates

    def _stage_config(self) -> StageConfig:
        return self.config.guided

    def _make_networks(self) -> dict[str, nn.Module]:
        networks = build_networks(self.config, len(self.schema.names))
        for name in ("content_encoder", "style_encoder", "generator"):
            networks[name].load_state_dict(self._source.networks[name].state_dict())
        networks["discriminator"].load_state_dict(self._discriminator.state_dict())
        if self._neighbours is not None:
            fusion = build_guidance(self.config.guided, self._source.content_channels)
            if fusion is not None:
                networks["fusion"] = fusion
        return networks

    def _batch(self, step: int, draw: Draw, images: Tensor) -> Batch:
        batch = super()._batch(step, draw, images)
        # Once for search and step, in full precision, as the index was filled: the encoders are frozen.
        content, mean, log_variance = self.method.encode(images)
        batch = replace(batch, encoded=(content, mean, log_variance))
        if self._neighbours is None:
            return batch
        g, size, neighbours = self.config.guided, len(images), self._neighbours
        # For the target's style, then for E_s(x), by which reconstruction is guided: not where pixels are copied, as
        # another's are no help to give back one's own and would only be punished.
        both = "fusion" in self.networks and g.guidance != "patches"
        ids = neighbours.find(
            torch.cat([content, content]) if both else content,
            torch.cat([batch.style, mean]) if both else batch.style,
            np.concatenate([draw.ids, draw.ids]) if both else draw.ids,
            repeat(np.random.default_rng([self.seed, 5, step, self.rank])),
        )
        rng = np.random.default_rng([self.seed, 8, step, self.rank])
        if g.random_k:
            ids = ids[:, : rng.integers(1, g.neighbours + 1)]
        drawn = draw_shown(size, g.neighbour_dropout, rng)
        shown = torch.from_numpy(drawn).to(self.device) if g.neighbour_dropout else None
        if g.neighbour_as_real:
            real_images, real_labels = neighbours.real(ids[:size, 0])
            batch = replace(batch, real_images=real_images, real_labels=real_labels)
        if g.neighbour_style:
            style = neighbours.style(ids[:size], batch.style, g.neighbour_style)
            batch = replace(
                batch, neighbour_style=style if shown is None else torch.where(shown[:, None], style, batch.style)
            )
        if "fusion" not in self.networks:
            return batch
        maps = neighbours.content(ids)
        batch = replace(batch, neighbours=maps[:size], source_neighbours=maps[size:] if both else None, shown=shown)
        if g.content_dropout:  # an image that sees no neighbours sees all of itself
            hidden = draw_hidden(size, self.config.data.size // 4, g.content_dropout, rng) & drawn[:, None, None, None]
            batch = replace(batch, hidden=torch.from_numpy(hidden).to(self.device))
        return batch

    def _grid_input(
        self, networks: Mapping[str, nn.Module], content: Tensor, style: Tensor, ids: NDArray[np.int64]
    ) -> tuple[Guided, Tensor]:
        if self._neighbours is None:
            return Guided(content), style
        found = self._neighbours.find(content, style, ids, repeat(np.random.default_rng([self.seed, 6])))
        if share := self.config.guided.neighbour_style:
            style = self._neighbours.style(found, style, share)
        fusion = networks.get("fusion")
        return Guided(content) if fusion is None else fusion(content, self._neighbours.content(found)), style


def _ramp(step: int, steps: int) -> float:
    """From 0 to 1 over the first `steps` steps; 1 where there are none."""
    return min(1.0, step / steps) if steps else 1.0


def _held_out(workspace: Workspace, schema: AttributeSchema) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Ids and used labels of the labelled test images; of training images where there are none."""
    for where in ("split=test origin=real", "origin=real"):
        table = workspace.images(where)
        labels = table.labels[:, workspace.schema.indices(schema.names)]
        known = (labels >= 0).any(axis=1)
        if known.any():
            break
    return table.ids[known], labels[known]

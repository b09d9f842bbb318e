"""One step of the method on random pixels: what the tests of GMM-UNIT and of guidance share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from index_store.workspace import Workspace
from retrieval.tensors import first_weights
from tests.translation.small import USED, tiny
from translation.config import Config
from translation.guidance import Guidance
from translation.methods import find_method
from translation.methods.gmm_unit import GmmUnit, Networks, build_networks
from translation.networks.gmm_unit import Generator
from translation.objectives.style import sampled
from translation.sampling import Batch, Guides, LabelSampler
from translation.training.task import Engine, MethodTask

A = 3
ENCODERS = ("content_encoder", "style_encoder")


def make_batch(size: int = 2, neighbours: Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(3, size, 8 * A, generator=g)
    labels = torch.tensor([[1, 0, 0], [0, 1, -1]])[:size]
    target = torch.tensor([[0, 1, 1], [1, 0, 0]])[:size]
    images = torch.rand(size, 3, 32, 32, generator=g) * 2 - 1
    batch = Batch(images, labels, target, noise)
    return batch if neighbours is None else shown_to(batch, neighbours)


def shown_to(batch: Batch, neighbours: Tensor, *, alone: bool = False, **more: Tensor | None) -> Batch:
    """The batch with neighbours for the translation and (unless `alone`) for the reconstruction."""
    return replace(batch, guides=Guides(maps=(neighbours,) if alone else (neighbours, neighbours), **more))  # type: ignore[arg-type]


def networks_of(config: Config, attributes: int) -> dict[str, nn.Module]:
    """Fresh networks of GMM-UNIT for a configuration."""
    assert isinstance(config.networks, Networks)
    return build_networks(config.networks, config.data.size, attributes)


def make_method(*overrides: str, fusion: Guidance | None = None, train_encoders: bool = True) -> GmmUnit:
    torch.manual_seed(0)
    config = tiny(*overrides)
    networks = networks_of(config, A)
    if fusion is not None:
        networks["fusion"] = fusion
    if not train_encoders:
        for name in ENCODERS:
            networks[name].requires_grad_(False)
    return GmmUnit(networks, config.translation, train_encoders=train_encoders, groups=[[0, 1]])  # type: ignore[arg-type]


def step(
    method: GmmUnit,
    batch: Batch,
    optimizers: dict[str, torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """One whole step."""
    return Engine(optimizers, scaler=scaler).run(method.step(batch, 10**6))


def warm_up(method: GmmUnit, batch: Batch, optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """One step of the warm-up."""
    return Engine(optimizers).run(method.warm_up(batch, 0.1))


def optimizers(method: GmmUnit, rate: float = 1e-3) -> dict[str, torch.optim.Optimizer]:
    """Plain descent, so that a network without gradient does not move."""
    alone = [name for name in ("discriminator", "fusion") if name in method.networks]
    ours = [p for name, n in method.networks.items() if name not in alone for p in n.parameters()]
    own = {name: torch.optim.SGD(method.networks[name].parameters(), rate) for name in alone}
    return {"generator": torch.optim.SGD(ours, rate), **own}


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in network.parameters()])


def gradient(network: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None)


def forward(method: GmmUnit, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The generator's terms, and the mask."""
    content, mean, log_variance = method.encode(batch.images)
    own = sampled(mean, log_variance, batch.noise[2])
    guided = method.generator_input(content, batch)
    prediction, mask = method.generate(guided, method.target_style(batch), batch.images)
    fake = batch.images + mask * (prediction - batch.images)
    return method.generator_losses(batch, content, guided, mean, log_variance, own, fake), mask


def close_mask(method: GmmUnit) -> None:
    generator = method.networks["generator"]
    assert isinstance(generator, Generator)
    with torch.no_grad():
        generator.mask.weight.zero_()
        assert generator.mask.bias is not None
        generator.mask.bias.fill_(-50.0)


def task_of(workspace: Workspace, config: Config, seed: int = 0) -> MethodTask:
    """Stage 1 of a configuration's method on the attributes used."""
    schema = workspace.schema.subset(USED)
    method = first_weights(seed, lambda: find_method(config.method).build(config, schema, "translation"))
    draws = LabelSampler(
        workspace,
        USED,
        batch=config.translation.batch,
        seed=seed,
        noise=method.noise,
        groups=[schema.indices(group) for group in schema.groups],
    )
    return MethodTask(
        workspace, schema, method, draws, stage=config.translation, data=config.data, training=config.training
    )

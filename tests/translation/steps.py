"""One step of the method on random pixels: what the tests of GMM-UNIT and of guidance share."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from tests.translation.small import tiny
from translation.guidance import Guidance
from translation.methods.gmm_unit import Batch, GmmUnit, build_networks, sampled
from translation.networks.gmm_unit import Generator

A = 3
ENCODERS = ("content_encoder", "style_encoder")


def make_batch(size: int = 2, neighbours: Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(3, size, 8 * A, generator=g)
    labels = torch.tensor([[1, 0, 0], [0, 1, -1]])[:size]
    target = torch.tensor([[0, 1, 1], [1, 0, 0]])[:size]
    images = torch.rand(size, 3, 32, 32, generator=g) * 2 - 1
    return Batch(images, labels, target, noise[0], noise[1], noise[2], neighbours, neighbours)


def make_method(*overrides: str, fusion: Guidance | None = None, train_encoders: bool = True) -> GmmUnit:
    torch.manual_seed(0)
    config = tiny(*overrides)
    networks = build_networks(config, A)
    if fusion is not None:
        networks["fusion"] = fusion
    if not train_encoders:
        for name in ENCODERS:
            networks[name].requires_grad_(False)
    return GmmUnit(
        networks, config.translation, nullcontext, fusion=fusion, train_encoders=train_encoders, groups=[[0, 1]]
    )


def optimizers(method: GmmUnit, rate: float = 1e-3) -> dict[str, torch.optim.Optimizer]:
    """Plain descent, so that a network without gradient does not move."""
    ours = [p for name, n in method.networks.items() if name != "discriminator" for p in n.parameters()]
    theirs = list(method.networks["discriminator"].parameters())
    return {"generator": torch.optim.SGD(ours, rate), "discriminator": torch.optim.SGD(theirs, rate)}


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in network.parameters()])


def gradient(network: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None)


def forward(method: GmmUnit, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The generator's terms, and the mask."""
    content, mean, log_variance = method.encode(batch.images)
    own = sampled(mean, log_variance, batch.source_noise)
    guided = method.generator_input(content, batch.neighbours, batch.shown)
    prediction, mask = method.generate(guided, batch.style, batch.images)
    fake = batch.images + mask * (prediction - batch.images)
    return method.generator_losses(batch, content, guided, mean, log_variance, own, fake), mask


def close_mask(method: GmmUnit) -> None:
    generator = method.networks["generator"]
    assert isinstance(generator, Generator)
    with torch.no_grad():
        generator.mask.weight.zero_()
        assert generator.mask.bias is not None
        generator.mask.bias.fill_(-50.0)

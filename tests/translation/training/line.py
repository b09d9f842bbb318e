"""What the tests of the loop share: a task small enough to see through, and what makes two checkpoints the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from index_store.runs import CHECKPOINT
from translation.config import TrainingConfig


class Line:
    """A task of one weight matrix; its loss is not a number from step `bad` on, its weights from step `broken` on."""

    averaged = ("line",)
    average_decay = 0.9
    images_per_step = 1

    def __init__(self, bad: int | None = None, broken: int | None = None, at: Callable[[int], None] | None = None):
        torch.manual_seed(0)
        self.networks: dict[str, nn.Module] = {"line": nn.Linear(3, 2)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "line": torch.optim.Adam(self.networks["line"].parameters())
        }
        self.bad, self.broken, self.at = bad, broken, at

    def learning_rates(self, step: int) -> dict[str, float]:
        return {"line": 0.1 * 0.5 ** (step // 4)}

    def prepare(self, step: int) -> Tensor:
        return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))

    def step(self, step: int, batch: Tensor) -> dict[str, Tensor]:
        if self.at:
            self.at(step)
        loss = self.networks["line"](batch).square().mean()
        self.optimizers["line"].zero_grad()
        loss.backward()
        self.optimizers["line"].step()
        if self.broken is not None and step >= self.broken:
            with torch.no_grad():
                self.networks["line"].weight.fill_(math.nan)  # type: ignore[union-attr, operator]
        wrong = self.bad is not None and step >= self.bad
        return {"loss": loss.detach(), "other": loss.detach() * (math.nan if wrong else 1)}

    def sample_grid(self, networks: Mapping[str, nn.Module]) -> None:
        return None

    def health(self, metrics: Mapping[str, float]) -> str | None:
        return None


def settings(**changes: int) -> TrainingConfig:
    return TrainingConfig(**{"log_every": 20, "checkpoint_every": 5, "tensorboard": False, **changes})  # type: ignore[arg-type]


def assert_same(first: Path, second: Path) -> None:
    """Every tensor of two checkpoints is equal bit for bit."""
    a, b = load_file(first / CHECKPOINT), load_file(second / CHECKPOINT)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []

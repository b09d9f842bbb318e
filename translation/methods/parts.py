"""What methods share: how rates fall, and who plays where a guidance may have joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from translation.guidance import Guidance
from translation.methods import Player
from translation.sampling import Batch
from translation.sections import GuidedConfig, StageConfig

if TYPE_CHECKING:
    from translation.embeddings import Importance

MASK_CLOSED = 0.02
Decay = Callable[[int], float]


def halved(every: int) -> Decay:
    """The factor that halves a rate every so many steps."""
    return lambda step: 0.5 ** (step // every)


def linear(steps: int, start: int) -> Decay:
    """The factor that falls in a line from 1 at step `start` to 0 at `steps`."""
    return lambda step: 1.0 if step <= start else max(0.0, (steps - step) / max(1, steps - start))


def ramp(step: int, steps: int) -> float:
    """From 0 to 1 over the first `steps` steps; 1 where there are none."""
    return min(1.0, step / steps) if steps else 1.0


def planes(labels: Tensor) -> Tensor:
    """Labels [B, A] in {1, 0, −1 = unknown} as −1, 1, and 0 for unknown, float."""
    bits = labels.float()
    return torch.where(bits < 0, torch.zeros_like(bits), 2 * bits - 1)


def closed_mask(metrics: Mapping[str, float]) -> str | None:
    """A warning where what is painted is nothing: `mask_mean` of a method that blends."""
    mask = metrics.get("mask_mean", 1.0)
    if mask < MASK_CLOSED:
        return (
            f"the mask has closed (mean {mask:.3f}): the input is copied and nothing is learned; give what asks for "
            "the target's labels more weight"
        )
    return None


class GuidedAdversary:
    """A generator against a discriminator, where stage 3 may have added a guidance to the networks as `fusion`."""

    networks: dict[str, nn.Module]
    importance: Importance | None = None
    """Where made images are weighed (`sampling.informative`)."""
    weight: Tensor | None = None
    """[B]: how much each made image of this step counts; None: all alike."""

    def weigh(self, batch: Batch, fakes: Tensor, judged: Sequence[Tensor]) -> None:
        """The weights for this step's two adversarial terms; `judged`: what D says of the fakes (maps a scale)."""
        if self.importance is None:
            return
        logits = torch.stack([scale.detach().float().flatten(1).mean(1) for scale in judged]).mean(0)
        with torch.no_grad(), torch.autocast(fakes.device.type, enabled=False):
            self.weight = self.importance(batch.images.float(), fakes.detach().float(), batch.target, logits)

    @property
    def guidance(self) -> Guidance | None:
        fusion = self.networks.get("fusion")
        assert fusion is None or isinstance(fusion, Guidance)
        return fusion

    @property
    def painters(self) -> tuple[str, ...]:
        """The players that descend the generator's loss."""
        return ("generator",) if self.guidance is None else ("generator", "fusion")

    def adversaries(self, stage: StageConfig, generator: tuple[str, ...], decay: Decay) -> dict[str, Player]:
        """Player `generator` of these networks, `discriminator` and, where there is a guidance, `fusion`.

        Each has the stage's learning rate or, where one is set, a rate of its own.
        """
        rate = stage.learning_rate
        found = {
            "generator": Player(generator, rate, stage.betas, decay),
            "discriminator": Player(("discriminator",), stage.discriminator_learning_rate or rate, stage.betas, decay),
        }
        if self.guidance is not None and isinstance(stage, GuidedConfig):
            found["fusion"] = Player(("fusion",), stage.fusion_learning_rate or rate, stage.betas, decay)
        return found


class NoStyle:
    """What `Encodes` asks of a method that translates in one direction: its style has no numbers."""

    attributes = 0
    """Of the schema: how many labels `style_labels` does not know."""

    @property
    def style_dim(self) -> int:
        return 0

    @property
    def noise(self) -> tuple[int, int]:
        return 0, 0

    def style(self, images: Tensor) -> Tensor:
        return images.new_zeros(images.shape[0], 0)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros(len(labels), 0, device=labels.device)

    def style_mean(self, labels: Tensor) -> Tensor:
        return self.sample_style(labels)

    def style_labels(self, style: Tensor) -> Tensor:
        return torch.full((style.shape[0], self.attributes), -1, dtype=torch.int8, device=style.device)

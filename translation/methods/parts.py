"""What methods share: how rates fall, who plays where a guidance may have joined, and PatchNCE of networks' maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from translation import objectives
from translation.guidance import Guidance
from translation.methods import Player
from translation.networks.gmm_unit import Judged
from translation.networks.patches import PatchProjector, Staged, features
from translation.objectives.patch_nce import TEMPERATURE
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig
from translation.training.processes import shared_mean

if TYPE_CHECKING:
    from translation.embeddings import Importance

MASK_CLOSED = 0.02
COLLAPSED = 0.2
"""The share of the diversity of real images under which a generator has collapsed."""
Decay = Callable[[int], float]
Embedding = Callable[[Tensor], Tensor]


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


def labels_of(planes: Tensor) -> Tensor:
    """The labels int8 [B, A] that `planes` [B, A] tell: 1 above 0, 0 below, −1 where it is 0."""
    return torch.where(planes == 0, -torch.ones_like(planes), (planes > 0).to(planes.dtype)).to(torch.int8)


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
    features: Embedding | None = None
    """h, the extractor's features that translation holds (`semantic.weight`), with gradient; None: nothing is held."""
    semantic_weight: float = 0.0

    def weigh(self, batch: Batch, fakes: Tensor, judged: Sequence[Tensor]) -> None:
        """The weights for this step's two adversarial terms; `judged`: what D says of the fakes (maps a scale)."""
        if self.importance is None:
            return
        logits = torch.stack([scale.detach().float().flatten(1).mean(1) for scale in judged]).mean(0)
        with torch.no_grad(), torch.autocast(fakes.device.type, enabled=False):
            self.weight = self.importance(batch.images.float(), fakes.detach().float(), batch.target, logits)

    def held(self, sources: Tensor, fakes: Tensor) -> dict[str, Tensor]:
        """UDIT's term for the generator's loss, none where nothing is held."""
        if self.features is None:
            return {}
        with torch.no_grad():
            before = self.features(sources)
        return {"semantic": objectives.semantic(before, self.features(fakes))}

    def weights_of(self, weights: Section) -> dict[str, float]:
        """The weights of a section, and that of what is held."""
        return {**weights.model_dump(), "semantic": self.semantic_weight}

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


class ClassifyingAdversary(GuidedAdversary):
    """One whose discriminator gives what it has `Judged`, an entry a scale."""

    stage: Any
    """Its section, with `domain_softmax` and `weights.gradient_penalty`."""
    groups: Sequence[Sequence[int]]

    def discriminator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Least squares on real and (detached) fake, classification of real images' known attributes, R1.

        The gradient penalty is measured on every fourth image: it costs a second derivative, and changes slowly.
        Several processes measure it on the images that one would if the batch of each is a multiple of four.
        """
        (images, labels), discriminator = batch.real or (batch.images, batch.labels), self.networks["discriminator"]
        if batch.guides.real is not None:
            more, theirs = batch.guides.real
            images, labels = torch.cat([images, more]), torch.cat([labels, theirs])
        real, made = discriminator(images), discriminator(fake)
        judged = [scale.under(batch.target) for scale in made]
        self.weigh(batch, fake, judged)
        terms = {
            "adversarial": objectives.adversarial_discriminator(
                [scale.under(labels) for scale in real], judged, self.weight, wrong=self._wrong(batch, real, labels)
            ),
            "domain": self.domain(real, labels),
        }
        if self.stage.weights.gradient_penalty:
            with torch.autocast(images.device.type, enabled=False):  # second derivatives want full precision
                own, theirs = (batch.images, batch.labels) if batch.real is None else batch.real
                seen = own[::4].detach().requires_grad_()
                found = discriminator.forward(seen)  # not by a compiled call, which has no second derivative
                terms["gradient_penalty"] = objectives.gradient_penalty(
                    [scale.under(theirs[::4]) for scale in found], seen
                )
        return terms

    def _wrong(self, batch: Batch, real: Sequence[Judged], labels: Tensor) -> tuple[list[Tensor], Tensor] | None:
        """What D says of real images with `labels` under the labels of others, and [B] where those differ."""
        if real[0].matches is None:
            return None
        others = torch.cat([batch.target, batch.labels])[: len(labels)]
        return [scale.under(others) for scale in real], (others != labels).any(1).float()

    def domain(self, judged: Sequence[Judged], labels: Tensor) -> Tensor:
        """The classification of what D says, a scale each, of images with these labels."""
        groups = self.groups if self.stage.domain_softmax else ()
        return objectives.domain([scale.attributes for scale in judged], labels, groups, shared_mean)


def contrast(
    networks: Sequence[Staged],
    projector: PatchProjector,
    layers: Sequence[str],
    keys: Sequence[Tensor],
    output: Tensor,
    *,
    patches: int = 256,
    temperature: float = TEMPERATURE,
    across_batch: bool = False,
    flip: bool = False,
) -> Tensor:
    """PatchNCE of an output [B, 3, H, W] in the maps `layers` of networks, against its source's: a scalar.

    CUT, Section 3. `keys` [B, C, h, w] are the source's maps in these layers; no gradient flows into them. `patches`
    positions of each map, drawn by torch's global generator, the same in both; with `flip` the output's are mirrored.
    """
    queries = features(networks, output, layers)
    places = [objectives.sample_positions(map_.shape[2] * map_.shape[3], patches) for map_ in keys]
    theirs = [objectives.mirrored(p, q.shape[3]) for p, q in zip(places, queries, strict=True)] if flip else places
    with torch.no_grad():
        known = projector([objectives.gather_positions(map_, p) for map_, p in zip(keys, places, strict=True)])
    found = projector([objectives.gather_positions(map_, p) for map_, p in zip(queries, theirs, strict=True)])
    return objectives.patch_nce_over_layers(found, known, temperature, across_batch)


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


@torch.no_grad()
def diversity(made: Tensor, real: Tensor) -> Tensor:
    """Mean |x − x′| between the images of a batch [B, 3, H, W], as a share of that between real ones."""
    ours, theirs = ((x - x.roll(1, 0)).abs().float().mean() for x in (made, real))
    return ours / theirs.clamp(min=1e-6)


def collapse(metrics: Mapping[str, float]) -> str | None:
    """A warning where made images of one batch differ much less from each other than real ones do."""
    share = metrics.get("diversity")
    if share is None or share >= COLLAPSED:
        return None
    return (
        f"the generator has collapsed: its images differ {share:.2f} times as much as real ones (more images, a lower "
        "learning rate, or a start from another run by --from)"
    )

"""INIT's backbone, a conditional GAN of images and attribute planes (Cao et al. 2020; `methods.md`, section 4).

What the paper adds are options of any method, `[sampling] informative` and `hops`. This is what it adds them to: the
log loss alone holds a translation to its labels, and nothing but the generator's shape its content to the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from translation import objectives
from translation.guidance import Guide
from translation.methods import (
    LOG_LOSS,
    SHARE,
    About,
    Curves,
    Draws,
    Loss,
    Player,
    Sections,
    Stage,
    Steps,
    Translation,
    Won,
)
from translation.methods.parts import GuidedAdversary, closed_mask, halved, labels_of, planes
from translation.networks.blocks import initialise
from translation.networks.conditional import ConditionalDiscriminator, ConditionalGenerator, initialise_painting
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig

if TYPE_CHECKING:
    from translation.config import Config


class Networks(Section):
    """`width` multiplies every channel count."""

    width: float = Field(1.0, gt=0)
    blocks: int = Field(6, ge=1, description="residual blocks")
    mask: bool = Field(False, description="paint over the source where a mask says so; not in the paper")
    discriminator_width: float = Field(1.0, gt=0)
    discriminator_layers: int = Field(4, ge=1, le=6, description="halvings")


class Weights(Section):
    """Weight of each term; 0 leaves it out, also of the arithmetic."""

    adversarial: float = Field(1.0, gt=0)
    mismatch: float = Field(
        0.0,
        ge=0,
        description="real images with others' labels are fakes to D: it looks at the labels; not in the paper",
    )
    reconstruction: float = Field(
        0.0, ge=0, description="absolute difference where the target is the source's own labels; not in the paper"
    )
    gradient_penalty: float = Field(0.0, ge=0, description="R1 on the discriminator; not in the paper")


class InitConfig(StageConfig):
    """Stage 1."""

    halve_every: int = Field(200_000, ge=1, description="steps after which the learning rate is halved")
    hidden: float = Field(
        0.0, ge=0, lt=1, description="share of target labels that neither network is told, so that some may be unknown"
    )
    weights: Weights = Weights()


class Init(GuidedAdversary):
    """networks: generator, in training discriminator. Its style is the label planes, its content the image itself."""

    name: ClassVar[str] = "init"
    about: ClassVar[About] = About(
        title="INIT's conditional GAN",
        paper="Informative Sample Mining Network for Multi-Domain Image-to-Image Translation (Cao et al.)",
        year=2020,
        needs=("labels",),
        sampling=("informative", "hops"),
        objectives=("semantic",),
        measured="results.md#init-importance-weights-and-hops",
    )
    draws: ClassVar[Draws] = "labels"
    won: ClassVar[Won] = LOG_LOSS
    encoders: ClassVar[tuple[str, ...]] = ()
    sections: ClassVar[Sections] = Sections(Networks, InitConfig, GuidedConfig)
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves(
            "Adversarial",
            "log loss",
            {"discriminator/adversarial": "discriminator", "generator/adversarial": "generator"},
        ),
        Curves("Given back", "mean absolute difference", {"generator/reconstruction": "own labels"}),
        Curves("Mask", "mean: 0 copies, 1 paints", {"mask_mean": "mask"}, SHARE),
    )

    def __init__(self, networks: dict[str, nn.Module], stage: InitConfig, attributes: int) -> None:
        self.networks, self.stage, self.attributes = networks, stage, attributes

    @classmethod
    def check(cls, config: Config) -> None:
        networks, size = config.networks, config.data.size
        assert isinstance(networks, Networks)
        if size >> networks.discriminator_layers < 1:
            raise ValueError(
                f"networks.discriminator_layers={networks.discriminator_layers} leaves nothing of {size} px"
            )

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        n, chosen, attributes = config.networks, config.translation, len(schema.names)
        assert isinstance(n, Networks) and isinstance(chosen, InitConfig)
        networks: dict[str, nn.Module] = {"generator": ConditionalGenerator(attributes, n.width, n.blocks, mask=n.mask)}
        initialise_painting(networks["generator"])
        if not inference:
            networks["discriminator"] = ConditionalDiscriminator(
                attributes, n.discriminator_width, n.discriminator_layers
            )
            initialise(networks["discriminator"], "normal")
        return cls(networks, chosen, attributes)

    @property
    def players(self) -> dict[str, Player]:
        return self.adversaries(self.stage, ("generator",), halved(self.stage.halve_every))

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("generator",)

    @property
    def noise(self) -> tuple[int, int]:
        """One: which labels are hidden."""
        return 1, self.attributes

    # In use: `Encodes`

    @property
    def content_channels(self) -> int:
        return 3

    @property
    def style_dim(self) -> int:
        return self.attributes

    def content(self, images: Tensor) -> Tensor:
        return images

    def style(self, images: Tensor) -> Tensor:
        """It cannot read labels: none is told."""
        return images.new_zeros(images.shape[0], self.attributes)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return planes(labels)

    def style_mean(self, labels: Tensor) -> Tensor:
        return planes(labels)

    def style_labels(self, style: Tensor) -> Tensor:
        return labels_of(style)

    def decode(self, content: Tensor, style: Tensor, images: Tensor, guide: Guide | None = None) -> Translation:
        raw, mask = self.networks["generator"](images, style)
        return Translation(raw if mask is None else objectives.blend(raw, mask, images), raw, mask)

    # Training

    def make(self, images: Tensor, told: Tensor) -> Translation:
        """Images [B, 3, H, W] with planes [B, A]."""
        return self.decode(images, told, images)

    def step(self, batch: Batch, t: int) -> Steps:
        """Discriminator, then generator, on images of the target labels."""
        weights, discriminator = self.stage.weights, self.networks["discriminator"]
        images, labels = batch.real or (batch.images, batch.labels)
        told, own = self._hidden(planes(batch.target), batch.noise), self._hidden(planes(labels), batch.noise)
        translated = self.make(batch.images, told)
        fake = translated.image
        seen = images.detach().requires_grad_(weights.gradient_penalty > 0)
        if weights.gradient_penalty:
            with torch.autocast(images.device.type, enabled=False):  # second derivatives want full precision
                real = discriminator.forward(seen, own)  # not by a compiled call, which has no second derivative
        else:
            real = discriminator(seen, own)
        made = discriminator(fake.detach(), told)
        self.weigh(batch, fake, [made])
        terms = {"adversarial": objectives.logistic_discriminator([real], [made], self.weight)}
        if weights.mismatch:
            wrong = discriminator(images, told)
            apart = (told != own).any(1).float()
            terms["mismatch"] = objectives.logistic_generator([-wrong], apart)
        if weights.gradient_penalty:
            terms["gradient_penalty"] = objectives.gradient_penalty([real], seen)
        yield Loss(("discriminator",), terms, weights.model_dump())

        terms = {"adversarial": objectives.logistic_generator([discriminator(fake, told)], self.weight)}
        if weights.reconstruction:
            # Blended: it teaches the mask, which without it opens wholly (measured), and D asks for other labels.
            terms["reconstruction"] = objectives.absolute_difference(self.make(images, own).image, images)
        terms |= self.held(batch.images, fake)
        yield Loss(("generator",), terms, self.weights_of(weights))
        if translated.mask is not None:
            yield Loss((), {"mask_mean": translated.mask.detach().float().mean()})
        return fake

    def health(self, metrics: Mapping[str, float]) -> str | None:
        return closed_mask(metrics)

    def _hidden(self, told: Tensor, noise: Tensor) -> Tensor:
        """Planes [B, A] of which a share is not told; the same for source and target."""
        if not self.stage.hidden:
            return told
        quantile = 0.5 * (1 + torch.erf(noise[0] / 2**0.5))  # uniform in [0, 1]
        return told * (quantile >= self.stage.hidden)

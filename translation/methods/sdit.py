"""SDIT: one generator for many domains with diverse outputs (Wang et al. 2019; `methods.md`, section 6).

The label enters the encoder, a noise vector the generator's norms; the discriminator must read both off the image. The
attention over features has no loss of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from translation import objectives
from translation.guidance import Guide
from translation.methods import About, Curves, Draws, Loss, Player, Sections, Stage, Steps, Translation
from translation.methods.parts import GuidedAdversary, halved, planes
from translation.networks.blocks import initialise
from translation.networks.sdit import AttentiveGenerator, LabelledEncoder, ReadingDiscriminator
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig
from translation.training.processes import shared_mean

if TYPE_CHECKING:
    from translation.config import Config


class Networks(Section):
    """`width` multiplies every channel count."""

    width: float = Field(1.0, gt=0)
    encoder_blocks: int = Field(6, ge=0)
    generator_blocks: int = Field(6, ge=1)
    discriminator_width: float = Field(1.0, gt=0)
    noise: int = Field(8, ge=1, description="numbers of the noise vector")
    norms: bool = Field(True, description="noise enters by conditional instance norms; off: as planes (Table 6.1)")
    attention: bool = Field(True, description="attention over features; off: Table 6.1")


class Weights(Section):
    """Weight of each term; 0 leaves it out, also of the arithmetic."""

    adversarial: float = Field(10.0, gt=0)
    domain: float = Field(1.0, ge=0)
    latent: float = Field(10.0, ge=0, description="|F(x̂) − z|: the noise is read off the image, by D's own head")
    reconstruction: float = Field(800.0, ge=0, description="back to the source's labels; the paper's value")
    gradient_penalty: float = Field(10.0, ge=0, description="of wgan: WGAN-GP's; of logistic: R1")


class SditConfig(StageConfig):
    """Stage 1."""

    adversarial: Literal["wgan", "logistic"] = Field("wgan", description="WGAN-GP, as released, or log loss")
    critic_steps: int = Field(5, ge=1, description="updates of D for one of the generator")
    halve_every: int = Field(200_000, ge=1, description="steps after which the learning rate is halved")
    weights: Weights = Weights()


class Sdit(GuidedAdversary):
    """networks: encoder, generator, discriminator. Its style is the label planes and the noise, A + Z numbers.

    The target's label enters the encoder, so `decode` encodes the images anew; `content` is what E says of them without
    any label. `style` reads labels and noise by D, which is kept for that.
    """

    name: ClassVar[str] = "sdit"
    about: ClassVar[About] = About(
        title="SDIT",
        paper="SDIT: Scalable and Diverse Cross-domain Image Translation (Wang et al.)",
        year=2019,
        needs=("labels",),
        sampling=("informative", "hops"),
        objectives=("semantic",),
        measured="results.md#init-and-sdit-a-first-look",
    )
    draws: ClassVar[Draws] = "labels"
    encoders: ClassVar[tuple[str, ...]] = ("encoder", "discriminator")
    sections: ClassVar[Sections] = Sections(Networks, SditConfig, GuidedConfig)
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves("Adversarial", "", {"discriminator/adversarial": "discriminator", "generator/adversarial": "generator"}),
        Curves(
            "Attributes in D",
            "cross-entropy",
            {"discriminator/domain": "real images", "generator/domain": "translations"},
        ),
        Curves("Noise read off the image", "mean absolute difference", {"generator/latent": "noise"}),
        Curves("Reconstruction", "mean absolute difference", {"generator/reconstruction": "back"}),
        Curves("Attention", "mean: 0 keeps, 1 changes", {"attention_mean": "attention"}, (0.0, 1.0)),
    )

    def __init__(self, networks: dict[str, nn.Module], stage: SditConfig, attributes: int, noise: int) -> None:
        self.networks, self.stage, self.attributes, self.length = networks, stage, attributes, noise

    @classmethod
    def check(cls, config: Config) -> None:
        """Nothing beyond what each setting allows."""

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        n, chosen, attributes = config.networks, config.translation, len(schema.names)
        assert isinstance(n, Networks) and isinstance(chosen, SditConfig)
        networks: dict[str, nn.Module] = {
            "encoder": LabelledEncoder(attributes, n.width, n.encoder_blocks),
            "generator": AttentiveGenerator(n.noise, n.width, n.generator_blocks, norms=n.norms, attention=n.attention),
            "discriminator": ReadingDiscriminator(config.data.size, attributes, n.noise, n.discriminator_width),
        }
        for name, network in networks.items():
            initialise(network, "normal" if name == "discriminator" else "kaiming")
        return cls(networks, chosen, attributes, n.noise)

    @property
    def players(self) -> dict[str, Player]:
        return self.adversaries(self.stage, ("encoder", "generator"), halved(self.stage.halve_every))

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(self.networks)

    @property
    def noise(self) -> tuple[int, int]:
        return 1, self.length

    # In use: `Encodes`

    @property
    def content_channels(self) -> int:
        encoder = self.networks["encoder"]
        assert isinstance(encoder, LabelledEncoder)
        return encoder.channels

    @property
    def style_dim(self) -> int:
        return self.attributes + self.length

    def content(self, images: Tensor) -> Tensor:
        return self.networks["encoder"](images, images.new_zeros(len(images), self.attributes))  # type: ignore[no-any-return]

    def style(self, images: Tensor) -> Tensor:
        """What D reads: labels in (−1, 1) and noise."""
        _, logits, noise = self.networks["discriminator"](images)
        return torch.cat([2 * logits.sigmoid() - 1, noise], dim=1)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(len(labels), self.length, generator=generator).to(labels.device)
        return torch.cat([planes(labels), noise], dim=1)

    def style_mean(self, labels: Tensor) -> Tensor:
        return torch.cat([planes(labels), torch.zeros(len(labels), self.length, device=labels.device)], dim=1)

    def style_labels(self, style: Tensor) -> Tensor:
        return (style[:, : self.attributes] > 0).to(torch.int8)

    def decode(self, content: Tensor, style: Tensor, images: Tensor, guide: Guide | None = None) -> Translation:
        made, _ = self.make(images, style[:, : self.attributes].sign(), style[:, self.attributes :])
        return Translation(made, made)

    # Training

    def make(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] with planes [B, A] and noise [B, Z], and the attention."""
        made, attention = self.networks["generator"](self.networks["encoder"](images, labels), noise)
        return made, attention

    def step(self, batch: Batch, t: int) -> Steps:
        """Discriminator; every `critic_steps` steps then encoder and generator."""
        weights, noise = self.stage.weights, batch.noise[0]
        learns = (t + 1) % self.stage.critic_steps == 0
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            fake, attention = self.make(batch.images, planes(batch.target), noise)
        yield Loss(("discriminator",), self.discriminator_losses(batch, fake.detach(), noise), weights.model_dump())
        if learns:
            realness, logits, read = self.networks["discriminator"](fake)
            terms = {
                "adversarial": self._adversarial_generator(realness),
                "domain": self._domain(logits, batch.target),
            }
            if weights.latent:
                terms["latent"] = objectives.absolute_difference(read, noise)
            if weights.reconstruction and batch.real is None:  # what was made has no labels to go back to
                back, _ = self.make(fake, planes(batch.labels), noise)
                terms["reconstruction"] = objectives.absolute_difference(back, batch.images)
            terms |= self.held(batch.images, fake)
            yield Loss(("generator",), terms, self.weights_of(weights))
            yield Loss((), {"attention_mean": attention.detach().float().mean()})
        return fake.detach()

    def discriminator_losses(self, batch: Batch, fake: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Real against made, the known labels of real images, the noise of made ones, and a penalty."""
        weights, discriminator = self.stage.weights, self.networks["discriminator"]
        images, labels = batch.real or (batch.images, batch.labels)
        realness, logits, _ = discriminator(images)
        judged, _, read = discriminator(fake)
        self.weigh(batch.images, fake, [judged])
        terms = {"domain": self._domain(logits, labels)}
        if self.stage.adversarial == "wgan":
            terms["adversarial"] = objectives.average(judged.float(), self.weight) - realness.float().mean()
        else:
            terms["adversarial"] = objectives.logistic_discriminator([realness], [judged], self.weight)
        if weights.latent:
            terms["latent"] = objectives.absolute_difference(read, noise)
        if weights.gradient_penalty:
            seen = images.detach()
            if self.stage.adversarial == "wgan":  # between the two
                share = torch.rand(len(images), 1, 1, 1, device=images.device)
                seen = torch.lerp(fake.float(), seen.float(), share)
            seen = seen.requires_grad_()
            with torch.autocast(images.device.type, enabled=False):  # second derivatives want full precision
                between = discriminator.forward(seen)[0]  # not by a compiled call, which has no second derivative
            wanted = 1.0 if self.stage.adversarial == "wgan" else 0.0
            terms["gradient_penalty"] = objectives.gradient_penalty([between], seen, wanted)
        return terms

    def health(self, metrics: Mapping[str, float]) -> str | None:
        attention = metrics.get("attention_mean")
        if attention is not None and attention < 0.01:
            return f"the attention has closed (mean {attention:.3f}): the encoder's map goes through unchanged"
        return None

    def _adversarial_generator(self, realness: Tensor) -> Tensor:
        if self.stage.adversarial == "wgan":
            return -objectives.average(realness.float(), self.weight)
        return objectives.logistic_generator([realness], self.weight)

    def _domain(self, logits: Tensor, labels: Tensor) -> Tensor:
        return objectives.domain([logits], labels, (), shared_mean)

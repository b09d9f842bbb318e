"""SDIT: one generator for many domains with diverse outputs (Wang et al. 2019; `methods.md`, section 6).

The label enters the encoder, a noise vector the generator's norms; the discriminator must read both off the image. The
attention over features has no loss of its own. Guided (not in the paper), retrieved content joins the encoder's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from translation import objectives
from translation.guidance import Guide, fuse, paint
from translation.methods import (
    LOG_LOSS,
    SHARE,
    About,
    Curves,
    Draws,
    Loss,
    Player,
    Query,
    Sections,
    Stage,
    Steps,
    Translation,
    Won,
)
from translation.methods.parts import GuidedAdversary, closed_mask, halved, planes
from translation.networks.blocks import initialise
from translation.networks.conditional import LabelledEncoder, initialise_painting
from translation.networks.sdit import AttentiveGenerator, ReadingDiscriminator
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
    mask: bool = Field(False, description="paint over the source where a mask says so; not in the paper")


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
    hidden: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of images whose target's labels are told to nobody, so that the encoder knows content "
        "without labels, by which guidance and retrieval search; not in the paper",
    )
    weights: Weights = Weights()


class GuidedSditConfig(GuidedConfig, SditConfig):
    """Stage 3."""

    weights: Weights = Weights()


class Sdit(GuidedAdversary):
    """networks: encoder, generator, discriminator; guided: `critic` too. Its style is label planes and noise, A + Z.

    The target's label enters the encoder, so `decode` encodes the images anew; `content` is what E says of them without
    any label. `style` reads labels and noise by D, which is kept for that. In stage 3 it is frozen like E, so that
    vectors stay comparable, and a copy of it, the critic, plays on.
    """

    name: ClassVar[str] = "sdit"
    about: ClassVar[About] = About(
        title="SDIT",
        paper="SDIT: Scalable and Diverse Cross-domain Image Translation (Wang et al.)",
        year=2019,
        needs=("labels",),
        guidance=("convolution", "attention", "patches"),
        sampling=("informative", "hops"),
        objectives=("semantic",),
        measured="results.md#sdit-what-its-parts-do",
    )
    draws: ClassVar[Draws] = "labels"
    encoders: ClassVar[tuple[str, ...]] = ("encoder", "discriminator")
    sections: ClassVar[Sections] = Sections(Networks, SditConfig, GuidedSditConfig)
    starts: ClassVar[Mapping[str, str]] = {"critic": "discriminator"}
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves("Adversarial", "", {"discriminator/adversarial": "discriminator", "generator/adversarial": "generator"}),
        Curves(
            "Attributes in D",
            "cross-entropy",
            {"discriminator/domain": "real images", "generator/domain": "translations"},
        ),
        Curves("Noise read off the image", "mean absolute difference", {"generator/latent": "noise"}),
        Curves("Reconstruction", "mean absolute difference", {"generator/reconstruction": "back"}),
        Curves("Attention", "mean: 0 keeps, 1 changes", {"attention_mean": "attention"}, SHARE),
        Curves("Mask", "mean: 0 copies, 1 paints", {"mask_mean": "mask"}, SHARE),
    )

    def __init__(
        self, networks: dict[str, nn.Module], stage: SditConfig | GuidedSditConfig, attributes: int, noise: int
    ) -> None:
        self.networks, self.stage, self.attributes, self.length = networks, stage, attributes, noise

    @classmethod
    def check(cls, config: Config) -> None:
        for name in ("neighbour_style", "neighbour_as_real", "content_dropout"):
            if getattr(config.guided, name):
                raise ValueError(f"guided.{name} is not for sdit: leave it off")

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        n, chosen, attributes = (
            config.networks,
            config.guided if stage == "guided" else config.translation,
            len(schema.names),
        )
        assert isinstance(n, Networks) and isinstance(chosen, SditConfig | GuidedSditConfig)
        networks: dict[str, nn.Module] = {
            "encoder": LabelledEncoder(attributes, n.width, n.encoder_blocks),
            "generator": AttentiveGenerator(
                n.noise, n.width, n.generator_blocks, norms=n.norms, attention=n.attention, mask=n.mask
            ),
        }
        for network in networks.values():
            initialise_painting(network)
        judges = ("discriminator", "critic") if stage == "guided" and not inference else ("discriminator",)
        for name in judges:
            networks[name] = ReadingDiscriminator(config.data.size, attributes, n.noise, n.discriminator_width)
            initialise(networks[name], "normal")
        return cls(networks, chosen, attributes, n.noise)

    @property
    def players(self) -> dict[str, Player]:
        guided = "critic" in self.networks
        found = self.adversaries(
            self.stage, ("generator",) if guided else ("encoder", "generator"), halved(self.stage.halve_every)
        )
        found["discriminator"] = replace(found["discriminator"], networks=(self._judge,))
        return found

    @property
    def won(self) -> Won | None:
        return LOG_LOSS if self.stage.adversarial == "logistic" else None  # a critic's lead is no victory

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(name for name in self.networks if name != "critic")

    @property
    def noise(self) -> tuple[int, int]:
        """Two: what the picture is drawn by, and whether its labels are hidden."""
        return 2, self.length

    @property
    def _judge(self) -> str:
        """The discriminator that plays."""
        return "critic" if "critic" in self.networks else "discriminator"

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
        return self.networks["encoder"](images, images.new_zeros(images.shape[0], self.attributes))  # type: ignore[no-any-return]

    def style(self, images: Tensor) -> Tensor:
        """What D reads: labels in (−1, 1) and noise."""
        _, logits, noise = self.networks["discriminator"](images)
        return torch.cat([2 * logits.sigmoid() - 1, noise], dim=1)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(len(labels), self.length, generator=generator).to(labels.device)
        return torch.cat([planes(labels), noise], dim=1)

    def style_mean(self, labels: Tensor) -> Tensor:
        told = planes(labels)
        none = told.new_zeros(told.shape[0], self.length)  # not len(labels): it would be fixed in ONNX
        return torch.cat([told, none], dim=1)

    def style_labels(self, style: Tensor) -> Tensor:
        return (style[:, : self.attributes] > 0).to(torch.int8)

    def decode(self, content: Tensor, style: Tensor, images: Tensor, guide: Guide | None = None) -> Translation:
        return self.make(images, style[:, : self.attributes].sign(), style[:, self.attributes :], guide)[0]

    # In stage 3: `Guidable`

    def encode(self, images: Tensor) -> Tensor:
        """The frozen encoder's map of images without labels [B, C, H/4, W/4]."""
        return self.content(images)

    def target_style(self, batch: Batch) -> Tensor:
        return torch.cat([planes(batch.target), batch.noise[0]], dim=1)

    def queries(self, batch: Batch) -> list[Query]:
        return [Query(batch.encoded, self.target_style(batch))]

    # Training

    def make(
        self, images: Tensor, labels: Tensor, noise: Tensor, guide: Guide | None = None
    ) -> tuple[Translation, Tensor]:
        """Images [B, 3, H, W] with planes [B, A] and noise [B, Z], and the attention [B, C, H/4, W/4]."""
        guided = fuse(self.guidance, self.networks["encoder"](images, labels), guide)
        raw, mask, attention = self.networks["generator"](guided.content, noise)
        strength = 1.0 if guide is None else guide.strength
        raw = paint(self.guidance, raw, torch.ones_like(raw[:, :1]) if mask is None else mask, guided, images, strength)
        return Translation(raw if mask is None else objectives.blend(raw, mask, images), raw, mask), attention

    def step(self, batch: Batch, t: int) -> Steps:
        """Discriminator; every `critic_steps` steps then encoder and generator."""
        weights, noise = self.stage.weights, batch.noise[0]
        batch = replace(batch, target=self._hidden(batch.target, batch.noise[1]))
        learns = (t + 1) % self.stage.critic_steps == 0
        guide = Guide(batch.guides.maps[0], shown=batch.guides.shown) if batch.guides.maps else None
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            translated, attention = self.make(batch.images, planes(batch.target), noise, guide)
            fake = translated.image
        yield Loss(("discriminator",), self.discriminator_losses(batch, fake.detach(), noise), weights.model_dump())
        if learns:
            realness, logits, read = self.networks[self._judge](fake)
            terms = {
                "adversarial": self._adversarial_generator(realness),
                "domain": self._domain(logits, batch.target),
            }
            if weights.latent:
                terms["latent"] = objectives.absolute_difference(read, noise)
            if weights.reconstruction and batch.real is None:  # what was made has no labels to go back to
                back, _ = self.make(fake, planes(batch.labels), noise)
                # Unblended: blended, a closed mask would make it 0 (measured: closed within 140 steps).
                terms["reconstruction"] = objectives.absolute_difference(back.raw, batch.images)
            terms |= self.held(batch.images, fake)
            yield Loss(self.painters, terms, self.weights_of(weights))
            told = {"attention_mean": attention} | ({} if translated.mask is None else {"mask_mean": translated.mask})
            yield Loss((), {name: value.detach().float().mean() for name, value in told.items()})
        return fake.detach()

    def discriminator_losses(self, batch: Batch, fake: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Real against made, the known labels of real images, the noise of made ones, and a penalty."""
        weights, discriminator = self.stage.weights, self.networks[self._judge]
        images, labels = batch.real or (batch.images, batch.labels)
        realness, logits, _ = discriminator(images)
        judged, _, read = discriminator(fake)
        self.weigh(batch, fake, [judged])
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
        return closed_mask(metrics)

    def _hidden(self, target: Tensor, noise: Tensor) -> Tensor:
        """Labels [B, A], all of them unknown of a share of the images, by the first number of their noise [B, Z]."""
        if not self.stage.hidden:
            return target
        quantile = 0.5 * (1 + torch.erf(noise[:, :1] / 2**0.5))  # uniform in [0, 1]
        return torch.where(quantile < self.stage.hidden, -torch.ones_like(target), target)

    def _adversarial_generator(self, realness: Tensor) -> Tensor:
        if self.stage.adversarial == "wgan":
            return -objectives.average(realness.float(), self.weight)
        return objectives.logistic_generator([realness], self.weight)

    def _domain(self, logits: Tensor, labels: Tensor) -> Tensor:
        return objectives.domain([logits], labels, (), shared_mean)

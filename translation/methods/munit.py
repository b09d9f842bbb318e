"""MUNIT for many domains (Huang et al. 2018; thesis, Sections 5.3 and 5.5.2): content shared, style by N(0, I).

One encoder and one decoder serve all domains: the decoder is told the labels beside the style, and the discriminator
classifies them, so a collection of two folders and one of forty attributes are trained alike. With `semantic.weight`
it is UDIT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from translation import objectives
from translation.guidance import Guide, Guided, fuse, paint
from translation.methods import (
    LEAST_SQUARES,
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
from translation.methods.parts import ClassifyingAdversary, halved, labels_of, planes
from translation.networks.gmm_unit import ContentEncoder, Discriminator
from translation.networks.munit import DomainDecoder, Places, PoolingEncoder, VectorEncoder, initialise
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig

if TYPE_CHECKING:
    from translation.config import Config

SMALLEST = 16  # pixels a side of the smallest scale that a discriminator sees


class Networks(Section):
    """`width` multiplies every channel count of encoders and decoder."""

    width: float = Field(1.0, gt=0)
    content_blocks: int = Field(4, ge=1)
    generator_blocks: int = Field(4, ge=1)
    style: int = Field(8, ge=1, description="numbers of the style")
    pooling_indices: bool = Field(
        False, description="the encoder pools and the decoder unpools at the places of its maxima (UDIT + PI)"
    )
    discriminator_width: float = Field(1.0, gt=0)
    discriminator_scales: int = Field(3, ge=1, le=3, description="at small sizes fewer are in use")
    discriminator_slope: float = Field(0.2, ge=0, lt=1)


class Weights(Section):
    """Weight of each term (Eq. 5.8, values of MUNIT); 0 leaves it out, also of the arithmetic."""

    adversarial: float = Field(1.0, gt=0)
    domain: float = Field(
        1.0, ge=0, description="classification of the attributes; MUNIT has a discriminator for each domain instead"
    )
    reconstruction: float = Field(10.0, ge=0)
    content: float = Field(1.0, ge=0)
    style: float = Field(1.0, ge=0)
    cycle: float = Field(0.0, ge=0, description="back to the source; MUNIT's option for large changes, there 10")
    gradient_penalty: float = Field(0.0, ge=0, description="R1 on the discriminator; not in the paper")


class MunitConfig(StageConfig):
    """Stage 1."""

    halve_every: int = Field(100_000, ge=1, description="steps after which the learning rate is halved")
    domain_softmax: bool = Field(False, description="softmax within exclusive groups instead of a sigmoid a bit")
    weights: Weights = Weights()


class GuidedMunitConfig(GuidedConfig, MunitConfig):
    """Stage 3: the decoder learns on, with neighbours of the target domain; the encoders are frozen."""

    weights: Weights = Weights()


class Munit(ClassifyingAdversary):
    """networks: content_encoder, style_encoder, generator, discriminator.

    Its style is the label planes and the vector that N(0, I) draws, A + Z numbers. Of a picture the discriminator
    reads the planes, for which it is kept; E_s's vector says nothing of the domain, so neighbours are sought by content
    within the target domain. With `pooling_indices` the places of the maxima are taken from the images that `decode` is
    given.
    """

    name: ClassVar[str] = "munit"
    about: ClassVar[About] = About(
        title="MUNIT for many domains; UDIT with an extractor",
        paper="Multimodal Unsupervised Image-to-Image Translation (Huang et al.)",
        year=2018,
        needs=("labels",),
        guidance=("convolution", "attention", "patches"),
        sampling=("informative", "hops"),
        objectives=("semantic",),
        measured="results.md#what-must-stay-udit-and-neighbours-that-agree",
    )
    draws: ClassVar[Draws] = "labels"
    encoders: ClassVar[tuple[str, ...]] = ("content_encoder", "style_encoder")
    style_tells: ClassVar[bool] = False
    sections: ClassVar[Sections] = Sections(Networks, MunitConfig, GuidedMunitConfig)
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves(
            "Adversarial",
            "least squares",
            {"discriminator/adversarial": "discriminator", "generator/adversarial": "generator"},
        ),
        Curves(
            "Attributes in D",
            "cross-entropy",
            {"discriminator/domain": "real images", "generator/domain": "translations"},
        ),
        Curves(
            "Given back",
            "mean absolute difference",
            {
                "generator/reconstruction": "image",
                "generator/content": "content",
                "generator/style": "style",
                "generator/semantic": "protected features",
            },
        ),
    )

    def __init__(
        self,
        networks: dict[str, nn.Module],
        stage: MunitConfig,
        *,
        attributes: int,
        numbers: int,
        groups: Sequence[Sequence[int]] = (),
        train_encoders: bool = True,
    ) -> None:
        self.networks, self.stage, self.attributes, self.numbers = networks, stage, attributes, numbers
        self.groups, self.train_encoders = groups, train_encoders

    @classmethod
    def check(cls, config: Config) -> None:
        for name, why in (
            ("neighbour_style", "whose style says nothing of the domain"),
            ("content_dropout", "which reconstructs without neighbours"),
        ):
            if getattr(config.guided, name):
                raise ValueError(f"guided.{name} has no meaning for munit, {why}: leave it 0")

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        n, chosen, attributes = config.networks, config.guided if stage == "guided" else config.translation, len(schema)
        assert isinstance(n, Networks) and isinstance(chosen, MunitConfig)
        scales = max(1, sum(config.data.size >> i >= SMALLEST for i in range(n.discriminator_scales)))
        content = PoolingEncoder if n.pooling_indices else ContentEncoder
        networks: dict[str, nn.Module] = {
            "content_encoder": content(n.width, n.content_blocks),
            "style_encoder": VectorEncoder(n.style, n.width),
            "generator": DomainDecoder(attributes + n.style, n.width, n.generator_blocks, pooling=n.pooling_indices),
            "discriminator": Discriminator(
                config.data.size, attributes, n.discriminator_width, scales, n.discriminator_slope
            ),
        }
        for name, network in networks.items():
            initialise(network, "normal" if name == "discriminator" else "kaiming")
        return cls(
            networks,
            chosen,
            attributes=attributes,
            numbers=n.style,
            groups=[schema.indices(group) for group in schema.groups],
            train_encoders=stage == "translation",
        )

    @property
    def won(self) -> Won:
        scales = len(self.networks["discriminator"].scales)  # type: ignore[arg-type]
        return Won(LEAST_SQUARES.discriminator * scales, LEAST_SQUARES.generator * scales)  # losses are sums over them

    @property
    def players(self) -> dict[str, Player]:
        trained = (*self.encoders, "generator") if self.train_encoders else ("generator",)
        return self.adversaries(self.stage, trained, halved(self.stage.halve_every))

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(self.networks)

    @property
    def noise(self) -> tuple[int, int]:
        return 1, self.numbers

    # In use: `Encodes`

    @property
    def content_channels(self) -> int:
        channels: int = self.networks["content_encoder"].channels  # type: ignore[assignment]
        return channels

    @property
    def style_dim(self) -> int:
        return self.attributes + self.numbers

    def content(self, images: Tensor) -> Tensor:
        """E_c: content [B, C, H/4, W/4]."""
        return self.networks["content_encoder"](images)  # type: ignore[no-any-return]

    def style(self, images: Tensor) -> Tensor:
        """Planes of the labels that D reads, and E_s's vector."""
        logits = torch.stack([scale.attributes for scale in self.networks["discriminator"](images)]).mean(0)
        return torch.cat([planes(logits > 0), self.networks["style_encoder"](images)], dim=1)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(len(labels), self.numbers, generator=generator).to(labels.device)
        return torch.cat([planes(labels), noise], dim=1)

    def style_mean(self, labels: Tensor) -> Tensor:
        told = planes(labels)
        none = told.new_zeros(told.shape[0], self.numbers)  # not len(labels): it would be fixed in ONNX
        return torch.cat([told, none], dim=1)

    def style_labels(self, style: Tensor) -> Tensor:
        return labels_of(style[:, : self.attributes])

    def decode(self, content: Tensor, style: Tensor, images: Tensor, guide: Guide | None = None) -> Translation:
        strength = 1.0 if guide is None else guide.strength
        guided = fuse(self.guidance, content, guide)
        made = self.generate(guided, style, images, self._places(images), strength)
        return Translation(made, made)

    # In stage 3: `Guidable`

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, Places]:
        """content [B, C, h, w], style vector [B, Z] and the places of the pools, with gradient in stage 1 only."""
        with torch.set_grad_enabled(self.train_encoders and torch.is_grad_enabled()):
            encoder = self.networks["content_encoder"]
            content, places = encoder.placed(images) if isinstance(encoder, PoolingEncoder) else (encoder(images), ())
            return content, self.networks["style_encoder"](images), places

    def target_style(self, batch: Batch) -> Tensor:
        """The target's planes and the vector drawn, [B, A + Z]."""
        return torch.cat([planes(batch.target), batch.noise[0]], dim=1)

    def queries(self, batch: Batch) -> list[Query]:
        """The source's content, for the target's labels: the style carries them, and the search reads them off it."""
        return [Query(batch.encoded[0], self.target_style(batch))]

    def generate(
        self, guided: Guided, style: Tensor, images: Tensor, places: Places = (), strength: float = 1.0
    ) -> Tensor:
        """The output [B, 3, H, W], with what guidance copies into it; it paints everywhere, so its mask is 1."""
        made: Tensor = self.networks["generator"](guided.content, style, places)
        return paint(self.guidance, made, torch.ones_like(made[:, :1]), guided, images, strength)

    # Training

    def step(self, batch: Batch, t: int) -> Steps:
        """Discriminator, then generator and encoders."""
        weights = self.weights_of(self.stage.weights)
        content, vector, places = batch.encoded or self.encode(batch.images)
        guides = batch.guides
        guide = Guide(guides.maps[0], shown=guides.shown) if guides.maps else None
        fake = self.generate(fuse(self.guidance, content, guide), self.target_style(batch), batch.images, places)
        yield Loss(("discriminator",), self.discriminator_losses(batch, fake.detach()), weights)
        yield Loss(self.painters, self.generator_losses(batch, content, vector, places, fake), weights)
        return fake

    def generator_losses(
        self, batch: Batch, content: Tensor, vector: Tensor, places: Places, fake: Tensor
    ) -> dict[str, Tensor]:
        """Every term whose weight is not 0, unweighted (Eq. 5.4 to 5.7)."""
        weights, judged = self.stage.weights, self.networks["discriminator"](fake)
        recovered, recovered_vector, recovered_places = self._read_back(fake)
        terms = {
            "adversarial": objectives.adversarial_generator([scale.realness for scale in judged], self.weight),
            "domain": self.domain(judged, batch.target),
            "content": objectives.absolute_difference(recovered, content.detach()),
            "style": objectives.absolute_difference(recovered_vector, batch.noise[0]),
        }
        terms |= self.held(batch.images, fake)
        if batch.real is None:  # what was made has no labels to be given back in
            own = torch.cat([planes(batch.labels), vector], dim=1)
            if weights.reconstruction:
                same = self.networks["generator"](content, own, places)
                terms["reconstruction"] = objectives.absolute_difference(same, batch.images)
            if weights.cycle:
                back = self.networks["generator"](recovered, own, recovered_places)
                terms["cycle"] = objectives.absolute_difference(back, batch.images)
        return terms

    def _places(self, images: Tensor) -> Places:
        encoder = self.networks["content_encoder"]
        return encoder.placed(images)[1] if isinstance(encoder, PoolingEncoder) else ()

    def _read_back(self, fake: Tensor) -> tuple[Tensor, Tensor, Places]:
        """What the encoders say of translations, with gradient to these also where the encoders are frozen."""
        encoder = self.networks["content_encoder"]
        content, places = encoder.placed(fake) if isinstance(encoder, PoolingEncoder) else (encoder(fake), ())
        return content, self.networks["style_encoder"](fake), places

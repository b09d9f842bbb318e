"""CUT and FastCUT: one direction between two domains, kept on the source by contrasting patches (`methods.md`, 5).

Park et al. 2020. The discriminator learns first; then generator and patch heads descend adversarial + NCE(x, G(x)) +
NCE(y, G(y)). One-sided: there is no way back and no second generator.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
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
from translation.methods.parts import GuidedAdversary, NoStyle, contrast, linear
from translation.networks.blocks import initialise
from translation.networks.patches import PAPER_LAYERS, PatchProjector, features, layer_channels, usable_layers
from translation.networks.resnet import PatchDiscriminator, ResnetDecoder, ResnetEncoder
from translation.objectives import adversarial_discriminator, adversarial_generator
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig

if TYPE_CHECKING:
    from translation.config import Config


class Networks(Section):
    """ResNet generator and 70×70 discriminator; `width` multiplies every channel count."""

    width: float = Field(1.0, gt=0)
    blocks: int = Field(9, ge=1, description="residual blocks")
    discriminator_width: float = Field(1.0, gt=0)
    discriminator_layers: int = Field(3, ge=1, le=5, description="halvings; at small sizes fewer are in use")
    projection: int = Field(256, ge=8, description="numbers of a vector that stands for a patch")


class Weights(Section):
    """Weight of each term, the paper's (its code halves nce and identity); 0 leaves a term out, also of the arithmetic.

    FastCUT: nce 10, identity 0.
    """

    adversarial: float = Field(1.0, gt=0)
    nce: float = Field(1.0, ge=0, description="patches of the source and its translation")
    identity: float = Field(1.0, ge=0, description="patches of a target image and what the generator makes of it")


class CutConfig(StageConfig):
    """Stage 1, CUT: the rate is constant, then falls in a line to 0 at `steps`."""

    learning_rate: float = Field(2e-4, gt=0)
    constant: float = Field(0.5, ge=0, le=1, description="share of `steps` before the rate falls")
    patches: int = Field(256, ge=2, description="positions compared in each layer")
    temperature: float = Field(0.07, gt=0)
    across_batch: bool = Field(False, description="other images' patches are negatives too")
    flip: bool = Field(False, description="FastCUT: half of the steps, drawn at random, translate mirrored sources")
    weights: Weights = Weights()


class GuidedCutConfig(GuidedConfig, CutConfig):
    """Stage 3: the decoder learns on with neighbours of the target domain at the bottleneck; the encoder is frozen."""

    guidance: Literal["none", "convolution", "attention", "patches"] = Field(
        "patches", description="attention or patches; of CUT convolution is refused"
    )
    learning_rate: float = Field(2e-4, gt=0)
    neighbour_start: float = Field(0.3, ge=0, lt=1, description="weight of the neighbours' way at the start")
    weights: Weights = Weights()


class Cut(GuidedAdversary, NoStyle):
    """networks: encoder (two halvings), decoder (residual blocks, upsampling), in training discriminator and projector.

    `draws` domains: `images` of the source, `references` of the target. It has a content, the encoder's map, and no
    style.
    """

    name: ClassVar[str] = "cut"
    about: ClassVar[About] = About(
        title="CUT, FastCUT",
        paper="Contrastive Learning for Unpaired Image-to-Image Translation (Park et al.)",
        year=2020,
        needs=("two domains",),
        guidance=("attention", "patches"),
        sampling=("informative",),
        objectives=("patch_nce", "semantic"),
        measured="results.md#cut",
    )
    draws: ClassVar[Draws] = "domains"
    won: ClassVar[Won] = LEAST_SQUARES
    encoders: ClassVar[tuple[str, ...]] = ("encoder",)
    sections: ClassVar[Sections] = Sections(Networks, CutConfig, GuidedCutConfig)
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves(
            "Adversarial",
            "least squares",
            {"discriminator/adversarial": "discriminator", "generator/adversarial": "generator"},
        ),
        Curves(
            "Patches told apart",
            "cross-entropy",
            {"generator/nce": "source and translation", "generator/identity": "target and itself"},
        ),
    )

    def __init__(
        self,
        networks: dict[str, nn.Module],
        stage: CutConfig,
        *,
        attributes: int,
        layers: tuple[str, ...],
        train_encoder: bool = True,
    ) -> None:
        self.networks, self.stage, self.attributes, self.layers = networks, stage, attributes, layers
        self.train_encoder = train_encoder

    @classmethod
    def check(cls, config: Config) -> None:
        g = config.guided
        if g.guidance == "convolution":
            raise ValueError("guided.guidance=convolution is not for cut: take attention or patches")
        for name in ("neighbour_style", "neighbour_as_real", "content_dropout"):
            if getattr(g, name):
                raise ValueError(f"guided.{name} has no meaning for cut, which has no style and gives nothing back")
        if getattr(g, "flip", False):
            raise ValueError("guided.flip has no meaning: neighbours are sought for the source as it is")

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        n, chosen = config.networks, config.guided if stage == "guided" else config.translation
        assert isinstance(n, Networks) and isinstance(chosen, CutConfig)
        encoder, decoder = ResnetEncoder(n.width), ResnetDecoder(n.width, n.blocks)
        layers = usable_layers((encoder, decoder), PAPER_LAYERS)
        networks: dict[str, nn.Module] = {"encoder": encoder, "decoder": decoder}
        if not inference:
            networks["projector"] = PatchProjector(layer_channels((encoder, decoder), layers), n.projection)
            networks["discriminator"] = PatchDiscriminator(
                n.discriminator_width, n.discriminator_layers, config.data.size
            )
        for network in networks.values():
            initialise(network, "normal")
        return cls(
            networks,
            chosen,
            attributes=len(schema.names),
            layers=layers,
            train_encoder=stage == "translation",
        )

    @property
    def players(self) -> dict[str, Player]:
        s = self.stage
        generator = ("encoder", "decoder", "projector") if self.train_encoder else ("decoder", "projector")
        return self.adversaries(s, generator, linear(s.steps, round(s.constant * s.steps)))

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(name for name in self.networks if name not in ("projector", "discriminator"))

    # In use: `Encodes`

    @property
    def content_channels(self) -> int:
        channels: int = self.networks["encoder"].channels  # type: ignore[assignment]
        return channels

    def content(self, images: Tensor) -> Tensor:
        """The encoder's map [B, C, H/4, W/4]."""
        return self.networks["encoder"](images)  # type: ignore[no-any-return]

    def decode(self, content: Tensor, style: Tensor, images: Tensor, guide: Guide | None = None) -> Translation:
        strength = 1.0 if guide is None else guide.strength
        made = self.generate(fuse(self.guidance, content, guide), images, strength)
        return Translation(made, made)

    # In stage 3: `Guidable`

    def encode(self, images: Tensor) -> Tensor:
        """The frozen encoder's map [B, C, H/4, W/4]."""
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            return self.content(images)

    def target_style(self, batch: Batch) -> Tensor:
        return self.style(batch.images)

    def queries(self, batch: Batch) -> list[Query]:
        """The source's content, in no style: the target domain is a filter of the search."""
        return [Query(batch.encoded, self.target_style(batch))]

    def generate(self, guided: Guided, images: Tensor, strength: float = 1.0) -> Tensor:
        """The output [B, 3, H, W], with what guidance copies into it; it paints everywhere, so its mask is 1."""
        made: Tensor = self.networks["decoder"](guided.content)
        return paint(self.guidance, made, torch.ones_like(made[:, :1]), guided, images, strength)

    # Training

    def step(self, batch: Batch, t: int) -> Steps:
        """Discriminator, then generator with the patch heads."""
        s, target = self.stage, batch.references
        assert target is not None
        flip = s.flip and bool(torch.initial_seed() >> 7 & 1)  # the loop seeds each step: a coin without waiting
        source = batch.images.flip(3) if flip else batch.images
        if batch.encoded is not None:
            guides = batch.guides
            guide = Guide(guides.maps[0], shown=guides.shown) if guides.maps else None
            fake = self.generate(fuse(self.guidance, batch.encoded, guide), batch.images)
        elif not flip:
            *keys, fake = features(self._generator, source, (*self.layers, "image"))
        else:
            fake = self.generate(Guided(self.content(source)), source)
        if flip or batch.encoded is not None:  # of the source as it is, and without guidance
            with torch.no_grad():
                keys = features(self._generator, batch.images, self.layers)
        discriminator = self.networks["discriminator"]
        made = [discriminator(fake.detach())]
        self.weigh(replace(batch, images=source), fake, made)
        judged = adversarial_discriminator([discriminator(target)], made, self.weight)
        yield Loss(("discriminator",), {"adversarial": judged}, {"adversarial": 0.5 * s.weights.adversarial})

        terms = {"adversarial": adversarial_generator([discriminator(fake)], self.weight)}
        if s.weights.nce:
            terms["nce"] = self._nce(keys, fake, flip)
        if s.weights.identity:
            *own, same = features(self._generator, target, (*self.layers, "image"))
            terms["identity"] = self._nce(own, same)
        terms |= self.held(source, fake)
        yield Loss(self.painters, terms, self.weights_of(s.weights))
        return fake

    @property
    def _generator(self) -> tuple[ResnetEncoder, ResnetDecoder]:
        encoder, decoder = self.networks["encoder"], self.networks["decoder"]
        assert isinstance(encoder, ResnetEncoder) and isinstance(decoder, ResnetDecoder)
        return encoder, decoder

    def _nce(self, keys: list[Tensor], output: Tensor, flip: bool = False) -> Tensor:
        """PatchNCE of an output against the maps of its source, which carry no gradient."""
        s, projector = self.stage, self.networks["projector"]
        assert isinstance(projector, PatchProjector)
        return contrast(
            self._generator,
            projector,
            self.layers,
            keys,
            output,
            patches=s.patches,
            temperature=s.temperature,
            across_batch=s.across_batch,
            flip=flip,
        )

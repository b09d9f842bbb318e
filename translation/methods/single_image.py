"""CUT on two single pictures (CUT, Section 4.4): random crops of one are translated to look like those of the other.

Networks after StyleGAN2's, the nonsaturating log loss with R1, and one position a crop, told from those of the batch's
other crops. Values are those of the released code; left out is its minibatch statistic (`networks/single_image.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from translation import objectives
from translation.guidance import Guide
from translation.methods import LOG_LOSS, About, Curves, Draws, Loss, Player, Sections, Stage, Steps, Translation, Won
from translation.methods.parts import GuidedAdversary, NoStyle, contrast, linear
from translation.networks.blocks import initialise
from translation.networks.patches import (
    SINGLE_IMAGE_LAYERS,
    PatchProjector,
    features,
    layer_channels,
    usable_layers,
)
from translation.networks.single_image import SingleImageDecoder, SingleImageDiscriminator, SingleImageEncoder
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig

if TYPE_CHECKING:
    from translation.config import Config


class Networks(Section):
    """`width` multiplies every channel count."""

    width: float = Field(1.0, gt=0)
    halvings: int = Field(1, ge=1, le=3, description="of the encoder; a place of its map stands for 2ⁿ × 2ⁿ pixels")
    blocks: int = Field(6, ge=1, description="residual blocks")
    discriminator_width: float = Field(1.0, gt=0)
    projection: int = Field(256, ge=8, description="numbers of a vector that stands for a patch")


class Weights(Section):
    """Weight of each term; 0 leaves it out, also of the arithmetic."""

    adversarial: float = Field(1.0, gt=0)
    nce: float = Field(2.0, ge=0, description="patches of the source and its translation; released: half of 4")
    target_nce: float = Field(2.0, ge=0, description="patches of the target and what the generator makes of it")
    identity: float = Field(1.0, ge=0, description="absolute difference of the target and what is made of it")
    gradient_penalty: float = Field(0.5, ge=0, description="R1 on the discriminator")


class SingleImageConfig(StageConfig):
    """Stage 1: the rate is constant, then falls in a line to 0 at `steps`. A batch is of so many crops of each."""

    batch: int = Field(16, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    betas: tuple[float, float] = (0.0, 0.99)
    constant: float = Field(0.5, ge=0, le=1, description="share of `steps` before the rate falls")
    patches: int = Field(1, ge=1, description="positions compared in each map")
    temperature: float = Field(0.07, gt=0)
    zoom: float = Field(3.0, ge=1, description="before a crop the picture is shrunk, by up to this to a side")
    weights: Weights = Weights()


class SingleImage(GuidedAdversary, NoStyle):
    """networks: encoder, decoder, in training discriminator and projector. `draws` crops: `images` and `references`."""

    name: ClassVar[str] = "single_image"
    about: ClassVar[About] = About(
        title="CUT on two single pictures",
        paper="Contrastive Learning for Unpaired Image-to-Image Translation (Park et al.), Section 4.4",
        year=2020,
        needs=("two pictures",),
        objectives=("patch_nce",),
        measured="results.md#two-single-pictures",
    )
    draws: ClassVar[Draws] = "crops"
    won: ClassVar[Won] = LOG_LOSS
    encoders: ClassVar[tuple[str, ...]] = ("encoder",)
    sections: ClassVar[Sections] = Sections(Networks, SingleImageConfig, GuidedConfig)
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves(
            "Adversarial",
            "log loss",
            {"discriminator/adversarial": "discriminator", "generator/adversarial": "generator"},
        ),
        Curves(
            "Patches told apart",
            "cross-entropy",
            {"generator/nce": "source and translation", "generator/target_nce": "target and itself"},
        ),
    )

    def __init__(self, networks: dict[str, nn.Module], stage: SingleImageConfig, layers: tuple[str, ...]) -> None:
        self.networks, self.stage, self.layers = networks, stage, layers

    @classmethod
    def check(cls, config: Config) -> None:
        SingleImageDiscriminator(config.data.size, 0.01)  # refuses sizes that cannot be halved

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        n, chosen = config.networks, config.translation
        assert isinstance(n, Networks) and isinstance(chosen, SingleImageConfig)
        encoder = SingleImageEncoder(n.width, n.halvings)
        decoder = SingleImageDecoder(n.width, n.halvings, n.blocks)
        layers = usable_layers((encoder, decoder), SINGLE_IMAGE_LAYERS)
        networks: dict[str, nn.Module] = {"encoder": encoder, "decoder": decoder}
        if not inference:
            networks["projector"] = PatchProjector(layer_channels((encoder, decoder), layers), n.projection)
            networks["discriminator"] = SingleImageDiscriminator(config.data.size, n.discriminator_width)
            initialise(networks["projector"], "normal")
        return cls(networks, chosen, layers)

    @property
    def players(self) -> dict[str, Player]:
        s = self.stage
        return self.adversaries(s, ("encoder", "decoder", "projector"), linear(s.steps, round(s.constant * s.steps)))

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(name for name in self.networks if name not in ("projector", "discriminator"))

    # In use: `Encodes`

    @property
    def content_channels(self) -> int:
        return self._generator[0].channels

    def content(self, images: Tensor) -> Tensor:
        """The encoder's map [B, C, H/2ⁿ, W/2ⁿ]."""
        return self.networks["encoder"](images)  # type: ignore[no-any-return]

    def decode(self, content: Tensor, style: Tensor, images: Tensor, guide: Guide | None = None) -> Translation:
        made = self.networks["decoder"](content)
        return Translation(made, made)

    # Training

    def step(self, batch: Batch, t: int) -> Steps:
        """Discriminator with R1, then generator with the patch heads."""
        target, weights = batch.references, self.stage.weights
        assert target is not None
        discriminator = self.networks["discriminator"]
        *keys, fake = features(self._generator, batch.images, (*self.layers, "image"))
        seen = target.detach().requires_grad_(weights.gradient_penalty > 0)
        with torch.autocast(seen.device.type, enabled=False):  # second derivatives want full precision
            real = discriminator.forward(seen)  # not by a compiled call, which has no second derivative
        judged = discriminator(fake.detach())
        terms = {"adversarial": objectives.logistic_discriminator([real], [judged])}
        if weights.gradient_penalty:
            terms["gradient_penalty"] = objectives.gradient_penalty([real], seen)
        yield Loss(("discriminator",), terms, weights.model_dump())

        terms = {"adversarial": objectives.logistic_generator([discriminator(fake)])}
        if weights.nce:
            terms["nce"] = self._nce(keys, fake)
        if weights.target_nce or weights.identity:
            *own, same = features(self._generator, target, (*self.layers, "image"))
            if weights.target_nce:
                terms["target_nce"] = self._nce(own, same)
            if weights.identity:
                terms["identity"] = objectives.absolute_difference(same, target)
        yield Loss(("generator",), terms, weights.model_dump())
        return fake

    @property
    def _generator(self) -> tuple[SingleImageEncoder, SingleImageDecoder]:
        encoder, decoder = self.networks["encoder"], self.networks["decoder"]
        assert isinstance(encoder, SingleImageEncoder) and isinstance(decoder, SingleImageDecoder)
        return encoder, decoder

    def _nce(self, keys: list[Tensor], output: Tensor) -> Tensor:
        """PatchNCE of crops against those of the batch: the other crops' patches are the wrong ones."""
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
            across_batch=True,
        )

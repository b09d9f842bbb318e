"""GMM-UNIT, and RG-UNIT on top of it: the networks with one update of each (RG-UNIT, Eq. 1–7; `methods.md`, 1 and 3).

One step encodes the source once and makes the fake once: the discriminator sees it detached, the generator's loss
uses it with gradient. RG-UNIT is the same step with a fused content as the generator's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from translation import objectives
from translation.guidance import Guide, Guided, fuse, paint
from translation.hiding import hide
from translation.methods import (
    LEAST_SQUARES,
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
from translation.methods.parts import MASK_CLOSED, ClassifyingAdversary, contrast, halved, ramp
from translation.networks.gmm_unit import (
    ContentEncoder,
    Discriminator,
    Generator,
    Judged,
    StyleEncoder,
    initialise,
)
from translation.networks.patches import PAPER_LAYERS, PatchProjector, features, layer_channels, usable_layers
from translation.networks.vgg import VGG
from translation.objectives import style as styles
from translation.objectives.style import STANDARD_DEVIATION
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig
from translation.training.processes import shared_mean

if TYPE_CHECKING:
    from translation.config import Config

MASK_OPEN = 0.98


class Networks(Section):
    """Table 8, scaled: `width` multiplies every channel count of encoders and generator."""

    width: float = Field(1.0, gt=0)
    content_blocks: int = Field(4, ge=1)
    generator_blocks: int = Field(4, ge=1)
    discriminator_width: float = Field(1.0, gt=0)
    discriminator_scales: int = Field(1, ge=1, le=3)
    discriminator_slope: float = Field(0.1, ge=0, lt=1)
    discriminator_labels: bool = Field(
        False, description="D judges whether an image is real and has its labels; not in the paper"
    )
    skips: bool = Field(False, description="the generator sees the source's pixels too; not in the paper")
    halvings: int = Field(
        0, ge=0, le=3, description="encoders and generator work on pictures halved so often; not in the paper"
    )
    perceptual_weights: str = Field("", description="safetensors file of a VGG; empty: the perceptual term is off")


class Weights(Section):
    """Weight of each term (RG-UNIT, Section 4.1); 0 leaves the term out, also of the arithmetic."""

    adversarial: float = Field(1.0, ge=0)
    domain: float = Field(1.0, ge=0)
    content: float = Field(1.0, ge=0)
    style: float = Field(10.0, ge=0)
    reconstruction: float = Field(1.0, ge=0)
    cycle: float = Field(10.0, ge=0)
    kl: float = Field(0.1, ge=0)
    isometry: float = Field(0.1, ge=0)
    perceptual: float = Field(0.1, ge=0)
    patch_nce: float = Field(
        0.0, ge=0, description="CUT's contrast of source and translation, in E_c's maps; not in the paper"
    )
    gradient_penalty: float = Field(0.0, ge=0, description="R1 on the discriminator; not in the paper")
    mask: float = Field(
        0.0, ge=0, description="price of the mask's mean: what need not change is left; not in the paper"
    )


class TranslationConfig(StageConfig):
    """Stage 1, GMM-UNIT."""

    warmup: int = Field(
        0, ge=0, description="first steps with reconstruction, KL and classification alone: cheap, and no mask to close"
    )
    mask_from: int = Field(
        0, ge=0, description="steps after the warm-up in which the whole picture is painted, M = 1; not in the paper"
    )
    mask_followed: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="after mask_from, go on painting the whole picture until D reads so many of the changed attributes "
        "as wanted; not in the paper",
    )
    halve_every: int = Field(200_000, ge=1, description="steps after which the learning rate is halved")
    kl_warmup: int = Field(0, ge=0, description="steps over which the KL's weight rises from 0")
    domain_softmax: bool = Field(False, description="softmax within exclusive groups instead of a sigmoid a bit")
    weights: Weights = Weights()


class RgUnitConfig(GuidedConfig, TranslationConfig):
    """Stage 3, RG-UNIT."""

    weights: Weights = Weights()


class GmmUnit(ClassifyingAdversary):
    """The update rule: one discriminator step, one generator step, on a `Batch` (labels drawn, three noises an image:
    the target's style, a second one for the isometry, E_s's sample of the source).

    `networks`: content_encoder, style_encoder, generator, in training discriminator; `fusion`, a guidance, makes it
    RG-UNIT. `train_encoders=False` (stage 3) keeps E_c and E_s as they are.
    """

    name: ClassVar[str] = "gmm_unit"
    about: ClassVar[About] = About(
        title="GMM-UNIT; guided: RG-UNIT",
        paper="Retrieval Guided Unsupervised Multi-domain Image-to-Image Translation (Gomez et al.)",
        year=2020,
        needs=("labels",),
        guidance=("convolution", "attention", "patches"),
        sampling=("informative", "hops"),
        objectives=("patch_nce", "semantic"),
        measured="results.md#gmm-unit",
    )
    draws: ClassVar[Draws] = "labels"
    won: ClassVar[Won] = LEAST_SQUARES
    encoders: ClassVar[tuple[str, ...]] = ("content_encoder", "style_encoder")
    sections: ClassVar[Sections] = Sections(Networks, TranslationConfig, RgUnitConfig)
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves(
            "Reconstruction",
            "mean absolute difference",
            {"generator/reconstruction": "reconstruction", "generator/cycle": "cycle"},
        ),
        Curves(
            "Attributes in D",
            "cross-entropy",
            {"discriminator/domain": "real images", "generator/domain": "translations"},
        ),
        Curves(
            "Adversarial",
            "least squares",
            {"discriminator/adversarial": "discriminator", "generator/adversarial": "generator"},
        ),
        Curves(
            "Style and content recovered",
            "mean absolute difference",
            {"generator/style": "style", "generator/content": "content"},
        ),
        Curves("Style encoder", "KL, summed", {"generator/kl": "KL"}),
        Curves(
            "Labels read from style",
            "accuracy",
            {"style_accuracy": "held-out images", "style_accuracy_train": "training images"},
            SHARE,
        ),
        Curves(
            "Mask",
            "mean: 0 copies, 1 paints",
            {"mask_mean": "mask", "labels_followed": "changed attributes that D reads in translations"},
            SHARE,
        ),
        Curves("Further terms", "unweighted", {"generator/perceptual": "perceptual", "generator/isometry": "isometry"}),
    )

    def __init__(
        self,
        networks: dict[str, nn.Module],
        stage: TranslationConfig | RgUnitConfig,
        *,
        groups: Sequence[Sequence[int]] = (),
        train_encoders: bool = True,
        vgg: VGG | None = None,
    ) -> None:
        self.networks, self.stage, self.groups = networks, stage, groups
        self.train_encoders, self.vgg = train_encoders, vgg

    # What the method is made of

    @classmethod
    def check(cls, config: Config) -> None:
        networks, size = config.networks, config.data.size
        assert isinstance(networks, Networks)
        scales, halvings = networks.discriminator_scales, networks.halvings
        if size >> halvings < 32:
            raise ValueError(
                f"networks.halvings={halvings} leaves {size >> halvings} of {size} pixels: take fewer, 32 are needed"
            )
        if size >> (scales - 1) < 16:
            raise ValueError(
                f"networks.discriminator_scales={scales} leaves {size >> (scales - 1)} of {size} pixels: at least 16"
            )

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        chosen = config.guided if stage == "guided" else config.translation
        n = config.networks
        assert isinstance(chosen, TranslationConfig | RgUnitConfig) and isinstance(n, Networks)
        networks = build_networks(n, config.data.size, len(schema.names), discriminator=not inference)
        if chosen.weights.patch_nce and not inference:
            encoder = networks["content_encoder"]
            assert isinstance(encoder, ContentEncoder)
            layers = usable_layers((encoder,), PAPER_LAYERS)
            networks["projector"] = PatchProjector(layer_channels((encoder,), layers))
            initialise(networks["projector"], "normal")
        if stage == "translation" and not inference and (chosen.mask_from or chosen.mask_followed):
            networks["generator"].whole.fill_(1)  # type: ignore[operator]
        wanted = n.perceptual_weights and chosen.weights.perceptual and not inference
        return cls(
            networks,
            chosen,
            groups=[schema.indices(group) for group in schema.groups],
            train_encoders=stage == "translation",
            vgg=VGG(Path(n.perceptual_weights).expanduser()) if wanted else None,
        )

    @property
    def helpers(self) -> tuple[nn.Module, ...]:
        return () if self.vgg is None else (self.vgg,)

    @property
    def players(self) -> dict[str, Player]:
        trained = (*self.encoders, "generator") if self.train_encoders else ("generator",)
        more = ("projector",) if "projector" in self.networks else ()
        return self.adversaries(self.stage, (*trained, *more), halved(self.stage.halve_every))

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(name for name in self.networks if name not in ("discriminator", "projector"))

    @property
    def noise(self) -> tuple[int, int]:
        return 3, self.style_dim

    # In use: `Encodes`

    @property
    def generator(self) -> Generator:
        generator = self.networks["generator"]
        assert isinstance(generator, Generator)
        return generator

    @property
    def content_channels(self) -> int:
        channels: int = self.networks["content_encoder"].channels  # type: ignore[assignment]
        return channels

    @property
    def style_dim(self) -> int:
        encoder = self.networks["style_encoder"]
        assert isinstance(encoder, StyleEncoder)
        return encoder.mean.out_features

    def content(self, images: Tensor) -> Tensor:
        """E_c: content [B, C, H/4, W/4]."""
        return self.networks["content_encoder"](images)  # type: ignore[no-any-return]

    def style(self, images: Tensor) -> Tensor:
        """μ of E_s: [B, 8·A]."""
        return self.networks["style_encoder"](images)[0]  # type: ignore[no-any-return]

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return styles.sample_style(labels, generator)

    def style_mean(self, labels: Tensor) -> Tensor:
        return styles.style_mean(labels)

    def style_labels(self, style: Tensor) -> Tensor:
        return styles.style_labels(style)

    def decode(self, content: Tensor, style: Tensor, images: Tensor, guide: Guide | None = None) -> Translation:
        guided = fuse(self.guidance, content, guide)
        raw, mask = self.generate(guided, style, images, 1.0 if guide is None else guide.strength)
        mask = self.generator.used(mask)
        return Translation(objectives.blend(raw, mask, images), raw, mask)

    # In stage 3: `Guidable`

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """content [B, C, h, w], style mean and log variance [B, 8·A] of the source, with gradient in stage 1 only."""
        with torch.set_grad_enabled(self.train_encoders and torch.is_grad_enabled()):
            content = self.networks["content_encoder"](images)
            mean, log_variance = self.networks["style_encoder"](images)
        return content, mean, log_variance

    def target_style(self, batch: Batch) -> Tensor:
        """The target's [B, 8·A]: its neighbours', or a draw."""
        if batch.guides.style is not None:
            return batch.guides.style
        return styles.style_mean(batch.target) + STANDARD_DEVIATION * batch.noise[0]

    def queries(self, batch: Batch) -> list[Query]:
        """For the target's style, then for E_s(x), by which reconstruction is guided: not where pixels are copied, as
        another's are no help to give back one's own and would only be punished."""
        content, mean, _ = batch.encoded
        wanted = [Query(content, self.target_style(batch))]
        return [*wanted, Query(content, mean)] if self.guidance is not None and not self.guidance.pixels else wanted

    def generate(self, guided: Guided, style: Tensor, images: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        """x̃ [B, 3, H, W] (with what guidance copies into it) and mask M [B, 1, H, W]."""
        prediction, mask = self.networks["generator"](guided.content, style, images)
        return paint(self.guidance, prediction, mask, guided, images, strength), mask

    def generator_input(self, content: Tensor, batch: Batch, query: int = 0) -> Guided:
        """c_total where neighbours are shown, else E_c(x): the only place where guidance enters (Eq. 2–7)."""
        guides = batch.guides
        if query >= len(guides.maps):
            return Guided(content)
        return fuse(self.guidance, content, Guide(guides.maps[query], shown=guides.shown))

    # Training

    def step(self, batch: Batch, t: int) -> Steps:
        """Discriminator, then generator (and encoders, fusion); a warm-up first."""
        kl_weight = self.stage.weights.kl * ramp(t, self.stage.kl_warmup)
        if t < self.stage.warmup:
            return (yield from self.warm_up(batch, kl_weight))
        weights = {**self.weights_of(self.stage.weights), "kl": kl_weight}
        content, mean, log_variance = batch.encoded or self.encode(batch.images)
        source_style = styles.sampled(mean, log_variance, batch.noise[2])
        guided = self.generator_input(content, batch)
        prediction, mask = self.generate(guided, self.target_style(batch), batch.images)
        early = t - self.stage.warmup < self.stage.mask_from
        self.generator.wait(early, self.stage.mask_followed)
        fake = objectives.blend(prediction, self.generator.used(mask), batch.images)
        yield Loss(("discriminator",), self.discriminator_losses(batch, fake.detach()), weights)
        terms = self.generator_losses(batch, content, guided, mean, log_variance, source_style, fake)
        if weights["mask"] and not early:
            terms["mask"] = mask.float().mean() * (1 - self.generator.whole)
        yield Loss(self.painters, terms, weights)
        yield self._told(mask, kl_weight, mean, batch.labels)
        return fake

    def warm_up(self, batch: Batch, kl_weight: float) -> Steps:
        """A cheap first step: reconstruct, classify real images, read their styles; nothing is translated.

        From scratch the mask closes at once: E_s and D cannot tell styles apart yet, so the only gradient it feels is
        that of the content and adversarial terms, which copying satisfies. It is not trained here and stays open.
        """
        weights = {**self.stage.weights.model_dump(), "kl": kl_weight}
        content, mean, log_variance = self.encode(batch.images)
        own, mask = self.networks["generator"](
            content, styles.sampled(mean, log_variance, batch.noise[2]), batch.images
        )
        real = self.domain(self.networks["discriminator"](batch.images), batch.labels)
        yield Loss(("discriminator",), {"domain": real}, weights)
        terms = {
            "reconstruction": objectives.absolute_difference(own, batch.images),
            "kl": objectives.kl_to_component(mean, log_variance, batch.labels),
        }
        yield Loss(("generator",), terms, weights)
        yield self._told(mask, kl_weight, mean, batch.labels)
        return own  # type: ignore[no-any-return]

    def generator_losses(
        self,
        batch: Batch,
        content: Tensor,
        guided: Guided,
        mean: Tensor,
        log_variance: Tensor,
        source_style: Tensor,
        fake: Tensor,
    ) -> dict[str, Tensor]:
        """Every term whose weight is not 0, unweighted; `guided` is the generator's input for `fake`.

        Reconstruction and cycle are measured on the *unblended* prediction: blended, M = 0 would make both 0.
        """
        weights, generator, style = self.stage.weights, self.networks["generator"], self.target_style(batch)
        judged = self.networks["discriminator"](fake)
        recovered = self.networks["content_encoder"](fake)
        recovered_style, _ = self.networks["style_encoder"](fake)
        terms = {
            "adversarial": objectives.adversarial_generator(
                [scale.under(batch.target) for scale in judged], self.weight
            ),
            "domain": self.domain(judged, batch.target),
            "content": objectives.absolute_difference(recovered, content),
            "style": objectives.absolute_difference(recovered_style, style),
        }
        terms |= self.held(batch.images, fake)
        if self.stage.mask_followed:
            self._follow(judged, batch)
        if weights.reconstruction:
            seen = self.generator_input(hide(content, batch.guides.hidden), batch, 1)
            own, _ = self.generate(seen, source_style, batch.images)
            terms["reconstruction"] = objectives.absolute_difference(own, batch.images)
        if weights.cycle or weights.perceptual:
            cycled, _ = generator(recovered, source_style, fake)  # the way back is unfused, as printed
            terms["cycle"] = objectives.absolute_difference(cycled, batch.images)
            if weights.perceptual and self.vgg is not None:
                with torch.no_grad():
                    features = self.vgg(batch.images)
                terms["perceptual"] = objectives.perceptual(features, self.vgg(cycled))
        if weights.patch_nce:
            terms["patch_nce"] = self._patch_nce(batch.images, fake)
        if self.train_encoders and weights.kl:
            terms["kl"] = objectives.kl_to_component(mean, log_variance, batch.labels)
        if weights.isometry:
            second = styles.style_mean(batch.target) + STANDARD_DEVIATION * batch.noise[1]
            prediction, mask = self.generate(guided, second, batch.images)
            painted = objectives.blend(prediction, self.generator.used(mask), batch.images)
            other, _ = self.networks["style_encoder"](painted)
            terms["isometry"] = objectives.isometry(style, second, recovered_style, other)
        return terms

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """How many known labels of held-out images E_s tells."""
        if batch.held_out is None:
            return {}
        images, labels = batch.held_out
        known = labels >= 0
        right = (styles.style_labels(self.style(images)) == labels) & known
        return {"style_accuracy": right.sum() / known.sum().clamp(min=1)}

    def health(self, metrics: Mapping[str, float]) -> str | None:
        mask = metrics["mask_mean"]
        if mask < MASK_CLOSED:
            remedy = "a larger translation.warmup"
            if self.stage.mask_from:
                remedy = "translation.mask_followed=0.4, so that it waits for them"
            if self.stage.mask_followed:
                remedy = "a larger translation.mask_followed"
            return (
                f"the mask has closed (mean {mask:.3f}): the input is copied and nothing is learned; it came in before "
                f"labels were followed: start again with {remedy}"
            )
        if mask > MASK_OPEN and not metrics.get("mask_waits"):
            return f"the mask is wide open (mean {mask:.3f}): the source's pixels are not used"
        return None

    @torch.no_grad()
    def _told(self, mask: Tensor, kl_weight: float, mean: Tensor, labels: Tensor) -> Loss:
        """What is logged beside the losses."""
        known = labels >= 0
        right = (styles.style_labels(mean) == labels) & known
        told = {
            "mask_mean": self.generator.used(mask.detach().float()).mean(),
            "kl_weight": torch.full((), kl_weight, device=mask.device),
            "style_accuracy_train": right.sum() / known.sum().clamp(min=1),
        }
        if self.stage.mask_from or self.stage.mask_followed:
            told["mask_waits"] = self.generator.whole.clone()
        if self.stage.mask_followed:
            told["labels_followed"] = self.generator.followed.clone()
        return Loss((), told)

    @torch.no_grad()
    def _follow(self, judged: Sequence[Judged], batch: Batch) -> None:
        """How many of the attributes that the target changes D reads in translations as wanted, over all processes."""
        read = torch.stack([scale.attributes.float() for scale in judged]).mean(0) > 0
        changed = (batch.target != batch.labels) & (batch.target >= 0) & (batch.labels >= 0)
        right = (read == (batch.target > 0)) & changed
        self.generator.follow(shared_mean(right.float().sum()), shared_mean(changed.float().sum()))

    def _patch_nce(self, images: Tensor, fake: Tensor) -> Tensor:
        """A patch of the translation against all of its source's: only that of its own place is right."""
        encoder, projector = self.networks["content_encoder"], self.networks["projector"]
        assert isinstance(encoder, ContentEncoder) and isinstance(projector, PatchProjector)
        layers = usable_layers((encoder,), PAPER_LAYERS)
        with torch.no_grad():
            keys = features((encoder,), images, layers)
        return contrast((encoder,), projector, layers, keys, fake)


def build_networks(n: Networks, size: int, attributes: int, *, discriminator: bool = True) -> dict[str, nn.Module]:
    """Freshly initialised content_encoder, style_encoder, generator and (unless inference only) discriminator."""
    networks: dict[str, nn.Module] = {
        "content_encoder": ContentEncoder(n.width, n.content_blocks, halvings=n.halvings),
        "style_encoder": StyleEncoder(attributes, n.width, halvings=n.halvings),
        "generator": Generator(attributes, n.width, n.generator_blocks, skips=n.skips, halvings=n.halvings),
    }
    for network in networks.values():
        initialise(network, "kaiming")
    if discriminator:
        networks["discriminator"] = Discriminator(
            size,
            attributes,
            n.discriminator_width,
            n.discriminator_scales,
            n.discriminator_slope,
            labels=n.discriminator_labels,
        )
        initialise(networks["discriminator"], "normal")
    return networks

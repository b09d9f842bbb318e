"""Mix-and-match networks across modalities, zero-pair (Wang 2020, Sections 4.4 and 4.5; `methods.md`, section 8).

One encoder and one decoder a modality. Pairs of the anchor (the first modality) and another one are learned from, each
other one on images of its own; translations between the others come about by joining. Three phases: translations
alone; then autoencoders, latent consistency and noise align the latent maps, with the anchor's encoder frozen; then
pseudo-pairs, made by the anchor's translations, train the unseen ones directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from translation import objectives
from translation.methods import About, Curves, Draws, Loss, Player, Sections, Stage, Steps
from translation.methods.mix_match import Networks as DomainNetworks
from translation.modalities import MODALITIES, check_modalities, seen_as
from translation.networks.blocks import initialise
from translation.networks.mix_match import Latent, ModalDecoder, ModalEncoder, Side, noisy
from translation.networks.resnet import PatchDiscriminator
from translation.objectives.modal import berhu, cross_entropy, squared_difference
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig

if TYPE_CHECKING:
    from translation.config import Config


class Networks(DomainNetworks):
    """Of each modality; `width` multiplies every channel count."""

    modalities: tuple[str, ...] = Field(
        ("rgb", "depth", "segmentation"), description="the first is the anchor; depth and segmentation: of drawn faces"
    )
    side: Side = Field(
        "pooling", description="what decoders other than RGB's are told: pooling (indices), skip (maps) or none"
    )


class Weights(Section):
    """Weight of each term; 0 leaves it out, also of the arithmetic. `aligned_` ones hold from the second phase."""

    rgb: float = Field(1.0, gt=0, description="adversarial and squared difference of colours and their opponents")
    aligned_rgb: float = Field(10.0, gt=0)
    squared: float = Field(1.0, gt=0, description="of the squared difference, times rgb")
    aligned_squared: float = Field(100.0, gt=0)
    adversarial: float = Field(1.0, ge=0, description="of RGB's discriminator, times rgb")
    depth: float = Field(10.0, gt=0)
    segmentation: float = Field(100.0, gt=0)
    autoencoder: float = Field(1.0, ge=0, description="each modality to itself, times its own weight")
    latent: float = Field(10.0, ge=0, description="latent maps of a pair apart")
    pseudo: float = Field(100.0, ge=0, description="an unseen translation against the anchor's; 0: no third phase")


class ZeroPairConfig(StageConfig):
    """Stage 1. A step learns from one pair (anchor, other); the others take turns."""

    learning_rate: float = Field(2e-4, gt=0)
    align: float = Field(0.4, ge=0, le=1, description="share of `steps` after which the latent maps are aligned")
    pseudo: float = Field(0.8, ge=0, le=1, description="share of `steps` after which pseudo-pairs are learned from")
    pseudo_rate: float = Field(0.1, gt=0, description="factor on the rate then")
    noise: float = Field(0.5, ge=0, description="standard deviation of the noise on aligned latent maps in training")
    weights: Weights = Weights()


class ZeroPair:
    """networks: encoder-NAME and decoder-NAME of each modality and, with RGB, in training discriminator."""

    name: ClassVar[str] = "zero_pair"
    about: ClassVar[About] = About(
        title="Mix-and-match networks across modalities",
        paper="Mix and Match Networks: Cross-Modal Alignment for Zero-Pair Image-to-Image Translation (Wang et al.)",
        year=2020,
        needs=("images", "drawn faces for depth and segmentation"),
        measured="results.md#mix-and-match-networks",
    )
    draws: ClassVar[Draws] = "modalities"
    sections: ClassVar[Sections] = Sections(Networks, ZeroPairConfig, GuidedConfig)
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves(
            "Modalities",
            "loss",
            {"generator/translation": "seen", "generator/autoencoder": "itself", "generator/pseudo": "pseudo-pairs"},
        ),
    )

    def __init__(self, networks: dict[str, nn.Module], stage: ZeroPairConfig, modalities: tuple[str, ...]) -> None:
        self.networks, self.stage, self.modalities = networks, stage, modalities
        self.anchor = modalities[0]
        self.phase = 1

    @classmethod
    def check(cls, config: Config) -> None:
        n, s, size = config.networks, config.translation, config.data.size
        assert isinstance(n, Networks) and isinstance(s, ZeroPairConfig)
        check_modalities(n.modalities)
        if size >> n.pools < 4:
            raise ValueError(f"networks.pools={n.pools} leaves {size >> n.pools} of {size} px: at least 4")
        if s.pseudo < s.align:
            raise ValueError("translation.pseudo comes before translation.align: pseudo-pairs are the last phase")

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        n, chosen = config.networks, config.translation
        assert isinstance(n, Networks) and isinstance(chosen, ZeroPairConfig)
        networks: dict[str, nn.Module] = {}
        shape: dict[str, Any] = {"width": n.width, "pools": n.pools, "kernel": n.kernel, "norm": n.norm}
        for name in n.modalities:
            one = MODALITIES[name]
            networks[f"encoder-{name}"] = ModalEncoder(one.channels, blocks=n.encoder_blocks, **shape)
            side: Side = "none" if name == "rgb" else n.side  # indices leave a grid in RGB
            networks[f"decoder-{name}"] = ModalDecoder(
                one.channels, blocks=n.decoder_blocks, side=side, bounded=one.kind != "classes", **shape
            )
        if "rgb" in n.modalities and chosen.weights.adversarial and not inference:
            networks["discriminator"] = PatchDiscriminator(
                n.discriminator_width, n.discriminator_layers, config.data.size
            )
        for name, network in networks.items():
            initialise(network, "normal" if name == "discriminator" else "kaiming")
        return cls(networks, chosen, n.modalities)

    @property
    def players(self) -> dict[str, Player]:
        s, first = self.stage, f"encoder-{self.anchor}"
        rest = tuple(name for name in self.averaged if name != first)

        def decay(step: int) -> float:
            return s.pseudo_rate if self._phase(step) == 3 else 1.0

        players = {
            "generator": Player(rest, s.learning_rate, s.betas, decay),
            "anchor": Player((first,), s.learning_rate, s.betas, decay),
        }
        if "discriminator" in self.networks:
            rate = s.discriminator_learning_rate or s.learning_rate
            players["discriminator"] = Player(("discriminator",), rate, s.betas, decay)
        return players

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(name for name in self.networks if name != "discriminator")

    @property
    def noise(self) -> tuple[int, int]:
        return 0, 0

    # In use

    def encode(self, name: str, seen: Tensor) -> Latent:
        """A modality [B, channels, H, W] → its latent map."""
        return self.networks[f"encoder-{name}"](seen)  # type: ignore[no-any-return]

    def decode(self, name: str, latent: Latent) -> Tensor:
        """A latent map → a modality, of classes their logits."""
        return self.networks[f"decoder-{name}"](latent)  # type: ignore[no-any-return]

    def translate(self, source: str, target: str, seen: Tensor) -> Tensor:
        """A modality by joined networks as another one, of classes their shares."""
        return shown(target, self.decode(target, self.encode(source, seen)))

    # Training

    def step(self, batch: Batch, t: int) -> Steps:
        """One modality with the anchor, both ways; what else, the phase says."""
        assert batch.domains is not None
        weights, s = self.stage.weights, self.stage
        phase = self.phase = self._phase(t)
        names = [self.anchor, self.modalities[batch.domains[0]]]
        seen = {name: seen_as(name, batch.images, batch.parts) for name in names}
        clean = {name: self.encode(name, seen[name]) for name in names}
        latents = clean if phase == 1 else {name: noisy(latent, s.noise) for name, latent in clean.items()}
        made = {name: [self.decode(name, latents[other])] for name, other in zip(names, names[::-1], strict=True)}
        if phase > 1 and weights.autoencoder:
            for name in names:
                made[name].append(self.decode(name, latents[name]))
        if "discriminator" in self.networks and "rgb" in made:
            yield Loss(("discriminator",), {"adversarial": self._judged(batch.images, made["rgb"])})

        terms = {"translation": self._sum([self._apart(name, made[name][0], seen[name], phase) for name in names])}
        if phase > 1 and weights.autoencoder:
            terms["autoencoder"] = self._sum([self._apart(n, made[n][1], seen[n], phase) for n in names])
        if "discriminator" in self.networks and "rgb" in made:
            fooled = [objectives.adversarial_generator([self.networks["discriminator"](one)]) for one in made["rgb"]]
            terms["adversarial"] = weights.adversarial * self._colours(phase) * self._sum(fooled)
        if phase > 1 and weights.latent:
            terms["latent"] = squared_difference(clean[names[0]].content, clean[names[1]].content)
        if phase == 3:
            terms["pseudo"] = self._pseudo(seen[self.anchor], names[1], latents[names[1]])
        players = ("generator", "anchor") if phase == 1 else ("generator",)
        scale = {"autoencoder": weights.autoencoder, "latent": weights.latent, "pseudo": weights.pseudo}
        yield Loss(players, terms, scale)
        return made[names[1]][0].detach()

    def health(self, metrics: Mapping[str, float]) -> str | None:
        latent = metrics.get("generator/latent")
        if latent is not None and latent > 10:
            return f"the latent maps have come apart (mean square {latent:.1f}): lower translation.learning_rate"
        return None

    def _phase(self, t: int) -> int:
        """1 translations alone, 2 aligned, 3 with pseudo-pairs."""
        s = self.stage
        if t >= s.pseudo * s.steps and s.weights.pseudo:
            return 3
        return 2 if t >= s.align * s.steps else 1

    def _pseudo(self, anchor: Tensor, name: str, latent: Latent) -> Tensor:
        """Eq. 4.12, 4.13: this modality's translation to each unseen one against the anchor's, which learns nothing."""
        terms = []
        for other in self.modalities[1:]:
            if other != name:
                with torch.no_grad():
                    wanted = self.translate(self.anchor, other, anchor)
                terms.append(_distance(other, self.decode(other, latent), wanted))
        return self._sum(terms)

    def _apart(self, name: str, made: Tensor, wanted: Tensor, phase: int) -> Tensor:
        """A modality from what it should be, by its own measure and weight."""
        w, kind = self.stage.weights, MODALITIES[name].kind
        if kind == "classes":
            return w.segmentation * _distance(name, made, wanted)
        if kind == "depth":
            return w.depth * _distance(name, made, wanted)
        squared = w.squared if phase == 1 else w.aligned_squared
        return self._colours(phase) * squared * _distance(name, made, wanted)

    def _colours(self, phase: int) -> float:
        return self.stage.weights.rgb if phase == 1 else self.stage.weights.aligned_rgb

    def _judged(self, real: Tensor, made: list[Tensor]) -> Tensor:
        judge = self.networks["discriminator"]
        return self._sum([objectives.adversarial_discriminator([judge(real)], [judge(one.detach())]) for one in made])

    @staticmethod
    def _sum(terms: list[Tensor]) -> Tensor:
        return torch.stack(terms).sum()


def shown(name: str, made: Tensor) -> Tensor:
    """What a decoder gives as its modality: logits become shares of the classes."""
    return made.softmax(1) if MODALITIES[name].kind == "classes" else made


def _distance(name: str, made: Tensor, wanted: Tensor) -> Tensor:
    kind = MODALITIES[name].kind
    if kind == "classes":
        return cross_entropy(made, wanted)
    return berhu(made, wanted) if kind == "depth" else squared_difference(made, wanted)

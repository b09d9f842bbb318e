"""Mix-and-match networks, unpaired (Wang 2020, Section 4.3; `methods.md`, section 8).

One encoder, one decoder and one discriminator a domain. Only translations to and from an anchor domain are trained;
the others come about by joining an encoder with a decoder that never met it. So n domains take n of each network and
n − 1 pairs, not n(n − 1)/2.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from translation import objectives
from translation.guidance import Guide
from translation.methods import (
    LEAST_SQUARES,
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
from translation.methods.parts import linear
from translation.networks.blocks import initialise
from translation.networks.mix_match import Latent, ModalDecoder, ModalEncoder, Norm, Side, joined, noisy
from translation.networks.resnet import PatchDiscriminator
from translation.pairing import anchor_of, trained_pairs
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig

if TYPE_CHECKING:
    from translation.config import Config


class Networks(Section):
    """Of each domain; `width` multiplies every channel count."""

    width: float = Field(1.0, gt=0)
    encoder_blocks: int = Field(6, ge=0, description="residual blocks")
    decoder_blocks: int = Field(6, ge=0)
    pools: int = Field(3, ge=1, le=5, description="2×2 max-pools: 3 leave a map of 16×16 of 128 px")
    kernel: Literal[3, 5, 7] = Field(7, description="of the convolutions before the pools and behind the unpools")
    norm: Norm = Field("instance", description="instance, the paper's, or layer, which keeps levels of colour")
    side: Side = Field(
        "none", description="what a decoder is told beside the latent map: none, pooling (indices) or skip (maps)"
    )
    discriminator_width: float = Field(1.0, gt=0)
    discriminator_layers: int = Field(3, ge=1, le=5, description="halvings; at small sizes fewer are in use")


class Weights(Section):
    """Weight of each term; 0 leaves it out, also of the arithmetic."""

    adversarial: float = Field(1.0, gt=0)
    cycle: float = Field(10.0, ge=0, description="there and back by two trained translations")
    autoencoder: float = Field(10.0, ge=0, description="a domain's encoder joined with its own decoder")
    latent: float = Field(1.0, ge=0, description="the latent map of a translation against that of its source")


class MixMatchConfig(StageConfig):
    """Stage 1. A step trains one pair of domains in both directions; the pairs take turns."""

    learning_rate: float = Field(2e-4, gt=0)
    constant: float = Field(0.5, ge=0, le=1, description="share of `steps` before the rate falls")
    anchor: str = Field("", description="the domain that is in every trained pair; empty: the first")
    pairs: Literal["anchor", "all"] = Field(
        "anchor", description="all: every pair is trained, the quadratic way to compare with"
    )
    noise: float = Field(0.5, ge=0, description="standard deviation of the noise on the latent map in training")
    weights: Weights = Weights()


class MixMatch:
    """networks: encoder-i, decoder-i, in training discriminator-i for the i-th attribute in use, which is a domain.

    Its style is which domain, n planes of a vector; its content is the latent map of the source's encoder, so it must
    be told the domain of what it encodes (`from_domains`).
    """

    name: ClassVar[str] = "mix_match"
    about: ClassVar[About] = About(
        title="Mix-and-match networks",
        paper="Mix and Match Networks: Encoder-Decoder Alignment for Zero-Pair Image Translation (Wang et al.)",
        year=2018,
        needs=("an exclusive group of domains",),
        measured="results.md#mix-and-match-networks",
    )
    draws: ClassVar[Draws] = "group"
    won: ClassVar[Won] = LEAST_SQUARES
    encoders: ClassVar[tuple[str, ...]] = ()
    """None: what has no known domain could not be indexed."""
    sections: ClassVar[Sections] = Sections(Networks, MixMatchConfig, GuidedConfig)
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves(
            "Adversarial",
            "least squares",
            {"discriminator/adversarial": "discriminator", "generator/adversarial": "generator"},
        ),
        Curves(
            "Given back",
            "mean absolute difference",
            {"generator/cycle": "there and back", "generator/autoencoder": "own decoder", "generator/latent": "latent"},
        ),
    )

    def __init__(self, networks: dict[str, nn.Module], stage: MixMatchConfig, domains: tuple[str, ...]) -> None:
        self.networks, self.stage, self.domains = networks, stage, domains
        self.anchor = anchor_of(domains, stage.anchor)
        self._source: Tensor | None = None

    @classmethod
    def check(cls, config: Config) -> None:
        n, size = config.networks, config.data.size
        assert isinstance(n, Networks)
        if size >> n.pools < 4:
            raise ValueError(f"networks.pools={n.pools} leaves {size >> n.pools} of {size} px: at least 4")

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        n, chosen = config.networks, config.translation
        assert isinstance(n, Networks) and isinstance(chosen, MixMatchConfig)
        networks: dict[str, nn.Module] = {}
        for i in range(len(schema.names)):
            networks[f"encoder-{i}"] = ModalEncoder(3, n.width, n.encoder_blocks, n.pools, n.kernel, norm=n.norm)
            networks[f"decoder-{i}"] = ModalDecoder(
                3, n.width, n.decoder_blocks, n.pools, n.kernel, side=n.side, norm=n.norm
            )
            if not inference:
                networks[f"discriminator-{i}"] = PatchDiscriminator(
                    n.discriminator_width, n.discriminator_layers, config.data.size
                )
        for name, network in networks.items():
            initialise(network, "normal" if name.startswith("discriminator") else "kaiming")
        return cls(networks, chosen, schema.names)

    @property
    def players(self) -> dict[str, Player]:
        s = self.stage
        decay = linear(s.steps, round(s.constant * s.steps))
        judges = tuple(name for name in self.networks if name.startswith("discriminator"))
        return {
            "generator": Player(self.averaged, s.learning_rate, s.betas, decay),
            "discriminator": Player(judges, s.discriminator_learning_rate or s.learning_rate, s.betas, decay),
        }

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(name for name in self.networks if not name.startswith("discriminator"))

    @property
    def noise(self) -> tuple[int, int]:
        return 0, 0

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The columns of each two domains between which translations are trained."""
        return trained_pairs(len(self.domains), self.anchor, self.stage.pairs == "all")

    # In use: `Encodes`, once `from_domains` has told what is encoded

    def from_domains(self, source: Tensor) -> Self:
        """The method for images of the domains that `source` [B, n] names. RgunitError where it names none."""
        true = source == 1
        if bool((true.sum(1) != 1).any()):
            domains = ", ".join(map(quoted, self.domains))
            raise RgunitError(f"the domain of a picture is not known: name it by --source, one of {domains}")
        other = copy.copy(self)
        other._source = true.long().argmax(1)
        return other

    @property
    def content_channels(self) -> int:
        channels: int = self.networks["encoder-0"].channels  # type: ignore[assignment]
        return channels

    @property
    def style_dim(self) -> int:
        return len(self.domains)

    def content(self, images: Tensor) -> Tensor:
        """The latent map [B, C, H/2ⁿ, W/2ⁿ] of each image by its own domain's encoder."""
        return self._latent(images).content

    def style(self, images: Tensor) -> Tensor:
        """The images' own domains, as told."""
        return nn.functional.one_hot(self._sources(images), len(self.domains)).to(images.dtype)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, n]: nothing is drawn. RgunitError where labels are no single domain."""
        if bool(((labels == 1).sum(1) != 1).any()):
            raise UsageError(
                f"a translation goes to one domain: name one of {', '.join(map(quoted, self.domains))} (--to '+NAME')"
            )
        return (labels == 1).float()

    def style_mean(self, labels: Tensor) -> Tensor:
        return self.sample_style(labels)

    def style_labels(self, style: Tensor) -> Tensor:
        return (style > 0.5).to(torch.int8)

    def decode(self, content: Tensor, style: Tensor, images: Tensor, guide: Guide | None = None) -> Translation:
        """`content` by the decoder of each style's domain; images are encoded anew for what it is told beside."""
        latent = self._latent(images)._replace(content=content)
        made = torch.empty_like(images)
        targets = style.argmax(1)
        for target in sorted(set(targets.tolist())):
            rows = targets == target
            made[rows] = self._decode(target, latent.rows(rows)).to(made.dtype)
        return Translation(made, made)

    def _latent(self, images: Tensor) -> Latent:
        """Each image by its own domain's encoder."""
        sources = self._sources(images)
        groups = {domain: (sources == domain).nonzero()[:, 0] for domain in sorted(set(sources.tolist()))}
        parts = [self._encode(domain, images[rows]) for domain, rows in groups.items()]
        return joined(parts).rows(torch.cat(list(groups.values())).argsort())

    def _sources(self, images: Tensor) -> Tensor:
        if self._source is None or len(self._source) != len(images):
            raise RgunitError(
                "these networks have an encoder for each domain: the domain of each picture must be known (--source)"
            )
        return self._source

    # Training

    def step(self, batch: Batch, t: int) -> Steps:
        """One pair of domains i and j: their discriminators, then both ways of it, each back again, and each itself."""
        assert batch.domains is not None and batch.references is not None
        s, (i, j) = self.stage, batch.domains
        images = {i: batch.images, j: batch.references}
        clean = {domain: self._encode(domain, x) for domain, x in images.items()}
        latents = {domain: noisy(latent, s.noise) for domain, latent in clean.items()}
        made = {j: self._decode(j, latents[i]), i: self._decode(i, latents[j])}
        judged = [
            objectives.adversarial_discriminator([self._judge(k, images[k])], [self._judge(k, made[k].detach())])
            for k in images
        ]
        yield Loss(
            ("discriminator",), {"adversarial": torch.stack(judged).mean()}, {"adversarial": s.weights.adversarial}
        )

        fooled = [objectives.adversarial_generator([self._judge(k, made[k])]) for k in images]
        terms = {"adversarial": torch.stack(fooled).mean()}
        if s.weights.cycle or s.weights.latent:
            again = {k: self._encode(k, made[k]) for k in images}
            if s.weights.cycle:
                back = {i: self._decode(i, noisy(again[j], s.noise)), j: self._decode(j, noisy(again[i], s.noise))}
                terms["cycle"] = _apart(back, images)
            if s.weights.latent:
                own = {k: clean[k].content.detach() for k in images}
                terms["latent"] = _apart({i: again[j].content, j: again[i].content}, own)
        if s.weights.autoencoder:
            terms["autoencoder"] = _apart({k: self._decode(k, latents[k]) for k in images}, images)
        yield Loss(("generator",), terms, s.weights.model_dump())
        return made[j].detach()

    def _encode(self, domain: int, images: Tensor) -> Latent:
        return self.networks[f"encoder-{domain}"](images)  # type: ignore[no-any-return]

    def _decode(self, domain: int, latent: Latent) -> Tensor:
        return self.networks[f"decoder-{domain}"](latent)  # type: ignore[no-any-return]

    def _judge(self, domain: int, images: Tensor) -> Tensor:
        return self.networks[f"discriminator-{domain}"](images)  # type: ignore[no-any-return]


def _apart(ours: Mapping[int, Tensor], theirs: Mapping[int, Tensor]) -> Tensor:
    """The mean absolute difference, over the domains."""
    return torch.stack([objectives.absolute_difference(ours[k], theirs[k]) for k in ours]).mean()

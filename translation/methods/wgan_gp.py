"""WGAN-GP, images from noise (Gulrajani et al. 2017), to be started from another run (TransferGAN; `methods.md`, 9).

Conditional it is an AC-GAN with batch norms of its own for each class (thesis, Section 2.4): a class is one combination
of the attributes used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from translation import objectives
from translation.methods import SHARE, About, Curves, Draws, Loss, Player, Sections, Stage, Steps
from translation.methods.parts import collapse, diversity, halved
from translation.networks.blocks import initialise
from translation.networks.wgan import ClassNorm, ResNetCritic, ResNetGenerator
from translation.sampling import Batch
from translation.sections import GuidedConfig, Section, StageConfig

if TYPE_CHECKING:
    from translation.config import Config
    from translation.methods.mine import Mine

MOST_ATTRIBUTES = 10  # of a conditional generator: it has 2^A classes
SELECTED = 10  # mined generators whose shares the chart shows
SETTLING = (8, 64)  # batches, and images of each, that a generator in use takes its norms' statistics from


class Networks(Section):
    """`width` multiplies every channel count."""

    width: float = Field(1.0, gt=0)
    discriminator_width: float = Field(1.0, gt=0)
    noise: int = Field(128, ge=1, description="numbers of the noise vector")


class Weights(Section):
    """Weight of each term."""

    gradient_penalty: float = Field(10.0, gt=0)


class ClassWeights(Weights):
    """Those of `domain` are for a conditional generator."""

    domain: float = Field(1.0, ge=0, description="cross-entropy of real images' classes, for the critic")
    domain_generator: float = Field(0.1, ge=0, description="of made images' classes, for the generator")


class AdversarialConfig(StageConfig):
    """What generator and miner share."""

    steps: int = Field(
        50_000, ge=1, description="updates of the generator (of the miner); --minutes ends a stage earlier"
    )
    batch: int = Field(64, ge=2)
    betas: tuple[float, float] = (0.0, 0.9)
    critic_steps: int = Field(5, ge=1, description="updates of the critic before one of the generator")


class GeneratorConfig(AdversarialConfig):
    """`train generator`."""

    conditional: bool = Field(False, description="on the attributes used: each combination of them is a class")
    halve_every: int = Field(200_000, ge=1, description="steps after which the learning rate is halved")
    weights: ClassWeights = ClassWeights()


class MinerConfig(AdversarialConfig):
    """`train miner`."""

    layers: int = Field(4, ge=1, description="of each miner")
    release: int = Field(0, ge=0, description="step from which the generators learn too (fine-tuning); 0: never")
    generator_learning_rate: float | None = Field(None, gt=0, description="of released ones; none: as learning_rate")
    weights: Weights = Weights()


class WganGp:
    """networks: generator, discriminator (the critic)."""

    name: ClassVar[str] = "wgan_gp"
    about: ClassVar[About] = About(
        title="WGAN-GP, TransferGAN, MineGAN: images from noise",
        paper="Improved Training of Wasserstein GANs (Gulrajani et al.); Transferring GANs, MineGAN (Wang et al.)",
        year=2017,
        needs=("images",),
        measured="results.md#images-from-noise-transfergan-and-minegan",
    )
    draws: ClassVar[Draws] = "images"
    sections: ClassVar[Sections] = Sections(
        Networks, StageConfig, GuidedConfig, {"generator": GeneratorConfig, "miner": MinerConfig}
    )
    curves: ClassVar[tuple[Curves, ...]] = (
        Curves("Wasserstein estimate, negated", "", {"discriminator/adversarial": "D(made) − D(real)"}),
        Curves("Diversity", "of real images'", {"diversity": "made images"}),
        Curves(
            "Selector",
            "share of the images",
            {f"selector_{number}": f"generator {number + 1}" for number in range(SELECTED)},
            SHARE,
        ),
    )
    """Of `train generator` and, with the selector of several generators, of `train miner`."""

    networks: dict[str, nn.Module]

    def __init__(self, networks: dict[str, nn.Module], stage: GeneratorConfig, schema: AttributeSchema) -> None:
        self.networks, self.stage, self.schema = networks, stage, schema

    @classmethod
    def check(cls, config: Config) -> None:
        size = config.data.size
        if size & (size - 1):
            raise ValueError(f"data.size of {cls.name} must be a power of 2, not {size}")

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        n, chosen = config.networks, getattr(config, "generator")  # noqa: B009  # a section of this method's own
        assert isinstance(n, Networks) and isinstance(chosen, GeneratorConfig)
        names = schema.names if chosen.conditional else ()
        if len(names) > MOST_ATTRIBUTES:
            raise UsageError(
                f"a conditional generator takes at most {MOST_ATTRIBUTES} attributes, not {len(names)}: choose some by "
                "--attributes-used"
            )
        classes = 1 << len(names)
        networks: dict[str, nn.Module] = {
            "generator": ResNetGenerator(config.data.size, n.noise, n.width, classes),
            "discriminator": ResNetCritic(config.data.size, n.discriminator_width, classes),
        }
        if inference:
            del networks["discriminator"]
        for network in networks.values():
            initialise(network, "kaiming")
        return cls(networks, chosen, schema.subset(names))

    @property
    def players(self) -> dict[str, Player]:
        stage, decay = self.stage, halved(self.stage.halve_every)
        rate = stage.discriminator_learning_rate or stage.learning_rate
        return {
            "generator": Player(("generator",), stage.learning_rate, stage.betas, decay),
            "discriminator": Player(("discriminator",), rate, stage.betas, decay),
        }

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("generator",)

    @property
    def noise(self) -> tuple[int, int]:
        return 2, self.generator.noise  # for the critic's turns, and for the generator's

    @property
    def batches(self) -> int:
        """How many batches of images a step takes: one for each turn of the critic."""
        return self.stage.critic_steps

    @property
    def generator(self) -> ResNetGenerator:
        generator = self.networks["generator"]
        assert isinstance(generator, ResNetGenerator)
        return generator

    def step(self, batch: Batch, t: int) -> Steps:
        """`critic_steps` turns of the critic, each with real images of its own, then one of the generator."""
        stage, turns = self.stage, self.stage.critic_steps
        own, wanted = (self.classes(labels) for labels in (batch.labels, batch.target))
        self.generator.seen += own.sum(0).long()
        for real, noise, kind, goal in zip(
            *(part.chunk(turns) for part in (batch.images, batch.noise[0], own, wanted)), strict=True
        ):
            with torch.no_grad():
                fake = self.generator(noise, goal)
            yield Loss(("discriminator",), self.critic_losses(real, fake, kind), stage.weights.model_dump())
        size = len(batch.images) // turns
        made: Tensor = self.generator(batch.noise[1][:size], wanted[:size])
        value, logits = self.networks["discriminator"](made)
        terms = {"adversarial": -value.float().mean()}
        if logits is not None:
            terms["domain"] = F.cross_entropy(logits.float(), wanted[:size])
        yield Loss(("generator",), terms, {"domain": stage.weights.domain_generator})
        yield Loss((), {"diversity": diversity(made, batch.images[:size])})
        return made.detach()

    def critic_losses(self, real: Tensor, fake: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Made less real, WGAN-GP's penalty between the two and, of a conditional one, the classes of real images."""
        value, logits = self.networks["discriminator"](real)
        made: Tensor = self.networks["discriminator"](fake)[0]
        terms = {"adversarial": made.float().mean() - value.float().mean()}
        terms["gradient_penalty"] = penalty(self.networks["discriminator"], real, fake)
        if logits is not None:
            terms["domain"] = F.cross_entropy(logits.float(), classes)
        return terms

    def classes(self, labels: Tensor) -> Tensor:
        """Complete labels [B, A] → their class as shares [B, 2^A]: number Σ bit·2^place."""
        number = (labels.long() << torch.arange(labels.shape[1], device=labels.device)).sum(1)
        return F.one_hot(number, self.generator.classes).float()

    def health(self, metrics: Mapping[str, float]) -> str | None:
        return collapse(metrics)

    def adapt(self, name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Another run's weights of a network as this one takes them (TransferGAN).

        From unconditional to conditional every class starts with the norms of the one; the critic's classes are new.
        """
        own, adapted = self.networks[name].state_dict(), dict(weights)
        for module, norm in self.networks[name].named_modules():
            if isinstance(norm, ClassNorm):
                for key in (f"{module}.weight", f"{module}.bias"):
                    if key in adapted and adapted[key].shape[0] == 1:
                        adapted[key] = adapted[key].expand(len(own[key]), -1)
        if not any(key.startswith("classes.") for key in adapted):
            adapted |= {key: value for key, value in own.items() if key.startswith("classes.")}
        return adapted | ({"seen": own["seen"]} if "seen" in own else {})

    @classmethod
    def mine(
        cls, config: Config, sources: Sequence[WganGp], schema: AttributeSchema, *, inference: bool = False
    ) -> Mine:
        """Miners before the generators of `sources`, with the first one's critic, which is told no classes any more."""
        from translation.methods.mine import Mine

        n, stage = config.networks, getattr(config, "miner")  # noqa: B009  # a section of this method's own
        assert isinstance(n, Networks) and isinstance(stage, MinerConfig)
        critic = None if inference else sources[0].networks["discriminator"]
        return Mine.of([source.generator for source in sources], critic, n.noise, stage, schema.subset(()))

    # In use: `Generates`

    @property
    def noise_length(self) -> int:
        return self.generator.noise

    def generate(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Noise [n, Z] and complete labels [n, A] (A = 0: unconditional) → images [n, 3, H, W] in [−1, 1]."""
        return self.generator(noise, self.classes(labels))  # type: ignore[no-any-return]

    def draw_labels(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Complete labels int8 [A] that agree with `wanted` [A] (−1: any), as often as in training. RgunitError: none
        did."""
        places = torch.arange(self.generator.classes)[:, None] >> torch.arange(len(wanted))
        bits = (places & 1).to(torch.int8)
        fits = ((bits == wanted) | (wanted < 0)).all(1)
        weights = self.generator.seen.cpu().double() * fits
        if not len(wanted):
            return bits[0]
        if not weights.sum():
            told = ", ".join(
                f"{name}={bit}" for name, bit in zip(self.schema.names, wanted.tolist(), strict=True) if bit >= 0
            )
            raise RgunitError(
                f"the generator was trained with no image of {told or 'any class'}: choose another --domain"
            )
        return bits[int(torch.multinomial(weights, 1, generator=generator))]

    @torch.no_grad()
    def settle(self) -> None:
        """Take the norms' statistics anew, of the weights in use: those of training are of weights that moved on."""
        generator, (batches, size) = self.generator, SETTLING
        device = next(generator.parameters()).device
        norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
        rng = torch.Generator().manual_seed(0)
        anything = torch.full((len(self.schema.names),), -1, dtype=torch.int8)
        generator.train()
        for _ in range(batches):
            labels = torch.stack([self.draw_labels(anything, rng) for _ in range(size)])
            self.generate(torch.randn(size, self.noise_length, generator=rng).to(device), labels.to(device))
        generator.eval()


def penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """WGAN-GP's gradient penalty of images between real and made ones, both [B, 3, H, W]; in full precision."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = torch.lerp(fake.float(), real.float(), share).requires_grad_()
    with torch.autocast(real.device.type, enabled=False):  # second derivatives want full precision
        value, _ = critic.forward(between)  # not by a compiled call, which has no second derivative
    return objectives.gradient_penalty([value[:, None, None, None]], between, 1.0)

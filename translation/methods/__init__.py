"""What a method is: the protocol that training, stages, evaluation and report know, and the list of methods.

A method is one file here (its networks' settings, its losses' weights, one training step) and one TOML preset.
`METHODS` is the only list; a method's module is imported when it is asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self, runtime_checkable

from index_store.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from index_store.attributes import AttributeSchema
    from translation.config import Config
    from translation.embeddings import Importance
    from translation.guidance import Guide
    from translation.sampling import Batch
    from translation.sections import GuidedConfig, Section, StageConfig

METHODS = {
    "gmm_unit": "translation.methods.gmm_unit:GmmUnit",
    "cut": "translation.methods.cut:Cut",
    "munit": "translation.methods.munit:Munit",
    "init": "translation.methods.init:Init",
    "sdit": "translation.methods.sdit:Sdit",
    "single_image": "translation.methods.single_image:SingleImage",
    "mix_match": "translation.methods.mix_match:MixMatch",
    "zero_pair": "translation.methods.zero_pair:ZeroPair",
    "wgan_gp": "translation.methods.wgan_gp:WganGp",
}
DEFAULT = "gmm_unit"  # of runs and presets that name no method

ALONE = ("generator", "miner")
"""The stages of methods that make images from noise: none of the others is built on them."""

JOINING = ("mix_match",)
"""The methods that are `Joins`: told here too, for who asks without torch."""

Stage = Literal["translation", "guided", "generator"]
Draws = Literal["labels", "domains", "crops", "group", "modalities", "images"]
"""What a step is given. labels: labelled images, and label vectors to translate them to. domains: images of a source
domain and of a target domain. crops: parts of one source picture and of one target picture. group: images of two
domains of an exclusive group, another pair in each step. modalities: images, and which modality is paired with the
anchor. images: those of one domain, and noise; such a method translates nothing."""


@dataclass(frozen=True)
class About:
    """What `rgunit methods` tells. `needs`: of the collection; the next three: which parts the method takes.

    `measured`: where its measurement stands, a place in docs/.
    """

    title: str
    paper: str
    year: int
    needs: tuple[str, ...]
    guidance: tuple[str, ...] = ()
    sampling: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    measured: str = ""


class Sections(NamedTuple):
    """The sections of the configuration that a method brings: their defaults are its own."""

    networks: type[Section]
    translation: type[StageConfig]
    guided: type[GuidedConfig]
    stages: Mapping[str, type[StageConfig]] = {}
    """The sections of stages that only this method and its like have, by their names."""

    def every(self) -> dict[str, type[Section]]:
        """All of them, by their names."""
        return {"networks": self.networks, "translation": self.translation, "guided": self.guided, **self.stages}


@dataclass(frozen=True)
class Player:
    """One optimiser: the networks that it updates, its rate, and the factor on the rate at a step (from 0)."""

    networks: tuple[str, ...]
    learning_rate: float
    betas: tuple[float, float]
    decay: Callable[[int], float]


class Won(NamedTuple):
    """Adversarial losses by which the discriminator has won: its own is at most, the generator's at least this."""

    discriminator: float
    generator: float


LEAST_SQUARES, LOG_LOSS = Won(0.02, 0.9), Won(0.05, 4.0)


class Loss(NamedTuple):
    """Σ weight·term, which the `players` descend. A loss of no players is only logged: its terms as they are named.

    `terms`: scalars by name; one without a weight counts once. They are logged as `PLAYER/NAME`, by the first player.
    """

    players: tuple[str, ...]
    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = {}


Steps = Generator[Loss, None, "Tensor"]
"""A step as the paper's algorithm: yields each loss, which is descended before it goes on, and returns the fakes."""


@dataclass(frozen=True)
class Translation:
    """image [B, 3, H, W] in [−1, 1] as shown; raw, the unblended prediction; mask [B, 1, H, W] in [0, 1], or None."""

    image: Tensor
    raw: Tensor
    mask: Tensor | None = None


class Query(NamedTuple):
    """What neighbours are sought for: content [B, C, h, w] in style [B, S]."""

    content: Tensor
    style: Tensor


SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Curves:
    """One chart of the report: `keys` are metrics and what their lines are called; `y_range` fixes the axis."""

    title: str
    unit: str
    keys: Mapping[str, str]
    y_range: tuple[float, float] | None = None


class Trains(Protocol):
    """Networks, and one training step on drawn batches.

    It may have five more attributes: `curves`, a tuple of `Curves` that the report draws; `helpers`, networks that
    are moved to the device like the others, but neither trained nor kept; `won`, by which losses its discriminator
    (player `discriminator`, term `adversarial`) has `Won`; `phase`, a number that changes where the scale of its terms
    does; and, of one that draws images, `batches`, how many batches of them a step takes.
    """

    draws: ClassVar[Draws]

    networks: dict[str, nn.Module]
    """What a checkpoint keeps; state that is no weight is a buffer. `fusion` is the guidance, where there is one."""

    @property
    def players(self) -> Mapping[str, Player]: ...

    @property
    def averaged(self) -> tuple[str, ...]:
        """Networks whose moving average serves inference."""

    @property
    def noise(self) -> tuple[int, int]:
        """How many standard normal vectors an image is given in each step, and of what length."""

    def step(self, batch: Batch, t: int) -> Steps: ...


class Method(Trains, Protocol):
    """One paper: what it is called, what it needs, and how it is built."""

    name: ClassVar[str]
    about: ClassVar[About]
    sections: ClassVar[Sections]

    @classmethod
    def check(cls, config: Config) -> None:
        """Raises ValueError where settings do not fit together."""

    @classmethod
    def build(cls, config: Config, schema: AttributeSchema, stage: Stage, *, inference: bool = False) -> Self:
        """Freshly initialised networks; for inference only those that it needs."""


@runtime_checkable
class Generates(Protocol):
    """A method that makes images from noise."""

    networks: dict[str, nn.Module]
    schema: AttributeSchema
    """Of the labels that it is conditioned on; none of an unconditional one."""

    @property
    def noise_length(self) -> int: ...

    def generate(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Standard normal noise [n, Z] and complete labels [n, A] → images [n, 3, H, W] in [−1, 1]."""

    def draw_labels(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Complete labels int8 [A] that agree with `wanted` [A] (−1: any), as often as in training."""

    def settle(self) -> None:
        """Make the networks ready for use: whatever depends on statistics of training."""


class Mines(Generates, Protocol):
    """A method whose trained generators can be mined for a domain of few images."""

    @classmethod
    def mine(cls, config: Config, sources: Sequence[Self], schema: AttributeSchema, *, inference: bool = False) -> Any:
        """Fresh miners before the generators of the sources: `Trains` and `Generates`. The critic is the first's."""


@runtime_checkable
class Encodes(Protocol):
    """A method with a content map and a style vector (of length 0 where it has none): what retrieval asks for.

    It may have an attribute `style_tells`, False where images of one domain have no styles alike: then retrieval looks
    for content alone, within the domain that `style_labels` reads off the style asked for.
    """

    networks: dict[str, nn.Module]
    encoders: ClassVar[tuple[str, ...]]
    """Networks that make content and style: their weights decide whether vectors may be compared."""

    @property
    def content_channels(self) -> int: ...

    @property
    def style_dim(self) -> int: ...

    def content(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] → content [B, C, h, w]."""

    def style(self, images: Tensor) -> Tensor:
        """Images → styles [B, S]."""

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Styles [B, S] drawn for labels [B, A]."""

    def style_mean(self, labels: Tensor) -> Tensor:
        """The middle of what `sample_style` draws, [B, S]."""

    def style_labels(self, style: Tensor) -> Tensor:
        """Labels int8 [B, A] read off styles; −1 where the style does not tell."""

    def decode(self, content: Tensor, style: Tensor, images: Tensor, guide: Guide | None = None) -> Translation:
        """Images [B, 3, H, W] with content [B, C, h, w] translated to style [B, S], guided by neighbours or not."""


@runtime_checkable
class Joins(Protocol):
    """A method with an encoder for each domain: it must be told what it encodes, and trains some pairs of domains."""

    anchor: int
    """The column of the domain that all trained pairs have in common."""

    @property
    def pairs(self) -> Sequence[tuple[int, int]]:
        """The columns of the trained pairs, both directions of each."""

    def from_domains(self, source: Tensor) -> Self:
        """The method for images of the domains that labels [B, A] name. RgunitError where they name none."""


@runtime_checkable
class Guidable(Encodes, Protocol):
    """A method that stage 3 can guide: frozen encoders, and a generator that takes neighbours' content.

    A further network that starts in stage 3 as a copy of another has its name and that one's in an attribute `starts`.
    """

    def encode(self, images: Tensor) -> Any:
        """What the frozen encoders give for images; a batch carries it as `encoded`, for the search and the step."""

    def target_style(self, batch: Batch) -> Tensor:
        """The style [B, S] that a batch's translations are to have."""

    def queries(self, batch: Batch) -> Sequence[Query]:
        """What neighbours are sought for in a step: the translation's first, then what else is guided."""


@runtime_checkable
class Weighed(Protocol):
    """A method whose adversarial terms weigh made images (`sampling.informative`)."""

    importance: Importance | None
    """None: all count alike."""


@runtime_checkable
class Protects(Protocol):
    """A method that holds an extractor's features through translation (`semantic.weight`)."""

    features: Callable[[Tensor], Tensor] | None
    """h: images [B, 3, H, W] → features [B, D, h, w], with gradient; None: nothing is held."""
    semantic_weight: float


@runtime_checkable
class Measures(Protocol):
    """A method that measures more than its losses, on held-out images."""

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalars after each step, without gradient; `batch.held_out` is there."""


@runtime_checkable
class Watches(Protocol):
    """A method that knows of more that may go wrong than every training does (`training/health.py`)."""

    def health(self, metrics: Mapping[str, float]) -> str | None:
        """A warning about logged metrics, or None."""


def trains_stage(method: str, stage: str) -> bool:
    """Whether a method has a stage: of its own, or one of those of translation."""
    found = find_method(method)
    return stage in found.sections.stages if found.draws == "images" else stage not in ALONE


def methods_of(stage: str) -> list[str]:
    """The methods that have a stage."""
    return [name for name in METHODS if trains_stage(name, stage)]


def find_method(name: str) -> type[Any]:
    """The class of a method, a `Method`. UsageError names the nearest right ones."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=3, cutoff=0.5)
        told = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(METHODS)}"
        raise UsageError(f"unknown method {name!r}: {told}")
    return _load(METHODS[name])


@cache
def _load(place: str) -> type[Any]:
    module, _, name = place.partition(":")
    found: type[Any] = getattr(import_module(module), name)
    return found

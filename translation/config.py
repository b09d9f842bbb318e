"""Configuration: one TOML file a preset, every number of every stage in it, nothing unknown accepted.

`load_config("celeba-64", overrides=["translation.batch=4"])` starts from a preset in `translation/presets/`, lays a
user's own TOML file over it, then single settings. A misspelt key is refused with the nearest right name.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from index_store.errors import UsageError
from retrieval.config import RetrievalConfig
from translation.evaluation.config import EvaluationConfig

PRESETS = Path(__file__).parent / "presets"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """What images look like to the networks, and which attributes are the style."""

    size: int = Field(128, ge=32, description="side of the square images, pixels; a multiple of 32")
    attributes_used: tuple[str, ...] = Field(
        (),
        description="the style's attributes, used where the workspace has them; none: all of the workspace's",
    )
    mirror: bool = Field(True, description="mirror half of the training images at random")

    @model_validator(mode="after")
    def _multiple_of_32(self) -> DataConfig:
        if self.size % 32:
            raise ValueError(f"data.size must be a multiple of 32, not {self.size}")
        return self


class NetworksConfig(Section):
    """Table 8, scaled: `width` multiplies every channel count of encoders and generator."""

    width: float = Field(1.0, gt=0)
    content_blocks: int = Field(4, ge=1)
    generator_blocks: int = Field(4, ge=1)
    discriminator_width: float = Field(1.0, gt=0)
    discriminator_scales: int = Field(1, ge=1, le=3)
    discriminator_slope: float = Field(0.1, ge=0, lt=1)
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
    gradient_penalty: float = Field(0.0, ge=0, description="R1 on the discriminator; not in the paper")


class StageConfig(Section):
    """What the two adversarial stages share."""

    steps: int = Field(540_000, ge=1, description="updates of each network; --minutes ends a stage earlier")
    batch: int = Field(1, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    discriminator_learning_rate: float | None = Field(None, gt=0, description="none: as learning_rate")
    halve_every: int = Field(200_000, ge=1, description="steps after which the learning rate is halved")
    betas: tuple[float, float] = (0.5, 0.999)
    average: float = Field(0.999, ge=0, lt=1, description="decay of the moving average used for inference")
    warmup: int = Field(
        0, ge=0, description="first steps with reconstruction, KL and classification alone: cheap, and no mask to close"
    )
    kl_warmup: int = Field(0, ge=0, description="steps over which the KL's weight rises from 0")
    domain_softmax: bool = Field(False, description="softmax within exclusive groups instead of a sigmoid a bit")
    weights: Weights = Weights()


class TranslationConfig(StageConfig):
    """Stage 1, GMM-UNIT."""


class GuidedConfig(StageConfig):
    """Stage 3, RG-UNIT."""

    neighbours: int = Field(3, ge=1, description="k: images retrieved to guide one translation")
    guidance: Literal["none", "convolution", "attention", "patches"] = Field(
        "convolution",
        description="convolution: the paper's, of exactly k; attention: any k, in any order; patches: likewise, but "
        "brings the neighbours' own pixels to where they fit",
    )
    fusion: Literal["identity", "paper"] = Field(
        "identity",
        description="the convolution's form: identity starts as stage 1, signed; paper ends in a ReLU, random start",
    )
    neighbour_start: float = Field(
        0.0, ge=0, lt=1, description="weight of the neighbours' way at the start; 0: step 0 equals stage 1"
    )
    fusion_learning_rate: float | None = Field(None, gt=0, description="none: as learning_rate")
    neighbour_dropout: float = Field(0.0, ge=0, le=1, description="share of images that are shown no neighbours")
    random_k: bool = Field(
        False, description="each step shows 1 … k neighbours, drawn at random; needs attention or patches"
    )
    content_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the source's content hidden, in blocks, where it is reconstructed"
    )
    neighbour_pool: int = Field(
        0, ge=0, description="draw the neighbours from so many nearest images: a search has favourites; 0: the nearest"
    )
    neighbour_style: float = Field(
        0.0,
        ge=0,
        le=1,
        description="how far to go from the style drawn to that of the neighbours, where they agree with it; true: 1",
    )
    neighbour_as_real: bool = Field(False, description="the discriminator sees each first neighbour as a real image")
    feature_cache: int = Field(512, ge=0, description="MiB kept of neighbours' content maps")

    @model_validator(mode="after")
    def _fit_together(self) -> GuidedConfig:
        if self.random_k and self.guidance not in ("attention", "patches"):
            raise ValueError(
                f"random_k needs guidance=attention or patches: {self.guidance} takes a fixed number of neighbours"
            )
        if 0 < self.neighbour_pool < self.neighbours:
            raise ValueError(
                f"neighbour_pool={self.neighbour_pool} is too few to draw {self.neighbours} neighbours from: "
                "give at least as many, or 0 for the nearest"
            )
        if self.content_dropout and self.guidance == "patches":
            raise ValueError(
                "content_dropout has no meaning for guidance=patches, which does not reconstruct: leave it 0"
            )
        if self.neighbour_start and self.fusion == "paper" and self.guidance == "convolution":
            raise ValueError("neighbour_start has no meaning for fusion=paper, which starts at random: leave it 0")
        return self


class IndexConfig(Section):
    generated: int = Field(500, ge=0, description="translations made, kept and indexed with the real images")
    batch: int = Field(64, ge=1)


class TrainingConfig(Section):
    """How to train, whatever is trained."""

    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="auto: bf16-mixed where it is quicker; 16-mixed: GPUs only"
    )
    channels_last: bool = True
    compile: bool = Field(False, description="torch.compile the networks of stages 1 and 3; needs a C++ compiler")
    log_every: int = Field(20, ge=1)
    sample_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    keep: int = Field(1, ge=1, description="how many of the last checkpoints are kept")
    best: str = Field(
        "", description="a logged measure: the checkpoint of stages 1 and 3 with its lowest value is kept too"
    )
    tensorboard: bool = True


class Shares(Section):
    """How `run --minutes` divides the time; evaluation and the index take what is left."""

    translation: float = Field(0.60, gt=0, lt=1)
    retrieval: float = Field(0.07, gt=0, lt=1)
    guided: float = Field(0.18, gt=0, lt=1, description="the three arms together")

    @model_validator(mode="after")
    def _within_one(self) -> Shares:
        if self.translation + self.retrieval + self.guided > 0.97:
            raise ValueError("shares of translation, retrieval and guided must leave 0.03 for index and evaluation")
        return self


class DemoConfig(Section):
    images: int = Field(1500, ge=60)
    unlabelled: float = Field(0.15, ge=0, lt=1, description="share of further images without labels")


class Config(Section):
    """Everything that decides a run; saved with it."""

    preset: str = "paper-celeba-128"
    data: DataConfig = DataConfig()
    networks: NetworksConfig = NetworksConfig()
    translation: TranslationConfig = TranslationConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    index: IndexConfig = IndexConfig()
    guided: GuidedConfig = GuidedConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    training: TrainingConfig = TrainingConfig()
    shares: Shares = Shares()
    demo: DemoConfig = DemoConfig()

    @model_validator(mode="after")
    def _scales_fit(self) -> Config:
        scales, size = self.networks.discriminator_scales, self.data.size
        if size >> (scales - 1) < 16:
            raise ValueError(
                f"networks.discriminator_scales={scales} leaves {size >> (scales - 1)} of {size} pixels: at least 16"
            )
        return self


def presets() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(file.stem for file in PRESETS.glob("*.toml"))


def load_config(
    preset: str,
    *,
    base: Mapping[str, Any] | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    size: int | None = None,
) -> Config:
    """A preset, with settings `base`, a TOML `file` and `section.key=value` overrides laid over it in this order.

    Raises UsageError for an unknown preset, key or value, naming the nearest right one.
    """
    if preset not in presets():
        raise UsageError(f"unknown preset {preset!r}: {_did_you_mean(preset, presets())}")
    settings = tomllib.loads((PRESETS / f"{preset}.toml").read_text())
    settings = _merged({**settings, "preset": preset}, base or {})
    if file is not None:
        try:
            settings = _merged(settings, tomllib.loads(file.read_text()))
        except OSError as error:
            raise UsageError(f"cannot read the configuration {file}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} is no valid TOML: {error}") from None
    for override in overrides:
        settings = _merged(settings, _setting(override))
    if size is not None:
        settings = _merged(settings, {"data": {"size": size}})
    return parse_config(settings)


def parse_config(settings: Mapping[str, Any]) -> Config:
    """The configuration in nested dictionaries (as saved with a run), checked."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise UsageError(_explain(error)) from None


def _setting(override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set takes section.key=value, not {override!r}")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    for key in reversed(name.strip().split(".")):
        value = {key: value}
    return dict(value)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: Any = Config
        for part in first["loc"][:-1]:
            model = model.model_fields[str(part)].annotation
        return f"unknown setting {place}: {_did_you_mean(str(first['loc'][-1]), list(model.model_fields))}"
    message = str(first["msg"]).removeprefix("Value error, ")
    if message.startswith("Input should be") and isinstance(first["input"], str | int | float):
        message = f"{message.replace('Input should be', 'must be')}, not {first['input']!r}"
    return f"setting {place}: {message}" if place else message


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"

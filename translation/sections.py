"""The sections of a configuration that every method shares, and what a method's own sections start from.

A method brings three of its own (`translation/methods/__init__.py`): `networks`, and the two adversarial stages
`translation` and `guided` with the weights of its losses. `config.py` puts the whole together.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator


class Section(BaseModel):
    """A part of the configuration: it does not change; keys that it does not have, and inf, are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class StageConfig(Section):
    """What the adversarial stages of every method share; a method adds its own and its `weights`."""

    steps: int = Field(540_000, ge=1, description="updates of each network; --minutes ends a stage earlier")
    batch: int = Field(1, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    discriminator_learning_rate: float | None = Field(None, gt=0, description="none: as learning_rate")
    betas: tuple[float, float] = (0.5, 0.999)
    average: float = Field(0.999, ge=0, lt=1, description="decay of the moving average used for inference")
    weights: SerializeAsAny[Section] = Field(default_factory=Section, description="of each term; 0 leaves it out")


class GuidedConfig(StageConfig):
    """What stage 3 of every method that can be guided shares."""

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
    pool: Literal["real", "generated", "both"] = Field(
        "real",
        description="which images guide: real and unlabelled ones, those that a generator drew from noise, or all",
    )
    agree: tuple[str, ...] = Field(
        (),
        description="attributes in which neighbours must have the source's label, else what an extractor reads of it",
    )
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


STORE = "store:"  # what begins `sampling.embedding` where the weights come from the index


class SamplingConfig(Section):
    """Which samples an adversarial method learns from (INIT, Cao et al. 2020)."""

    informative: bool = Field(
        False, description="weigh made images by how hard they are to tell from real ones, and by an embedding"
    )
    embedding: str = Field(
        "",
        description="of the weights: a retrieval or translation run, an ONNX file; empty: the newest retrieval. "
        "store:RUN: weights by how near a made image is to indexed real ones of its target domain",
    )
    hops: int = Field(
        1,
        ge=1,
        le=4,
        description="stage 1: reach a target also through up to so many translations, by labels drawn at random",
    )


class SemanticConfig(Section):
    """What a translation must not change (UDIT, thesis, chapter 5)."""

    extractor: str = Field("", description="the run of `train extractor` whose features are held; empty: the newest")
    weight: float = Field(0.0, ge=0, description="of ‖h(x̂) − h(x)‖ in the generator's loss; 0: nothing is held")


class ExtractorConfig(Section):
    """`train extractor`: a classifier of one attribute for each width of its last map, to choose the narrowest from."""

    steps: int = Field(400, ge=1)
    batch: int = Field(32, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    widths: tuple[int, ...] = Field((1, 2, 4, 8, 16, 32), min_length=1, description="candidates for D")
    network_width: float = Field(1.0, gt=0, description="multiplies the channels of the layers before")
    tolerance: float = Field(0.01, ge=0, lt=1, description="accuracy that the narrowest may lose against the best")

    @model_validator(mode="after")
    def _widths(self) -> ExtractorConfig:
        if min(self.widths) < 1 or len(set(self.widths)) != len(self.widths):
            raise ValueError(f"extractor.widths are different numbers from 1 up, not {list(self.widths)}")
        return self


class IndexConfig(Section):
    """What `index build`, and `run` for it, put into the store."""

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
    """The faces that `demo` draws."""

    images: int = Field(1500, ge=60)
    unlabelled: float = Field(0.15, ge=0, lt=1, description="share of further images without labels")

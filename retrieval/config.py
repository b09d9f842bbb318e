"""What can be chosen about the retrieval system: one frozen, checked model, by default the paper's values.

It is a section of the whole run's configuration, which `translation` owns; nothing here needs torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

NegativeKind = Literal["easy", "medium", "hard", "own_domain"]
NEGATIVES: tuple[NegativeKind, ...] = ("easy", "medium", "hard", "own_domain")

Norm = Literal["instance", "layer"]
Objective = Literal["triplet", "semihard", "multi_similarity", "info_nce", "parts"]
Distance = Literal["euclidean", "squared"]
Width = Annotated[int, Field(ge=1)]


def _distinct(kinds: tuple[NegativeKind, ...]) -> tuple[NegativeKind, ...]:
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"a kind of negative is named twice: {', '.join(kinds)}")
    return kinds


Negatives = Annotated[tuple[NegativeKind, ...], Field(min_length=1), AfterValidator(_distinct)]


class RetrievalConfig(BaseModel):
    """Stage 2: the embedding network (RG-UNIT, Table 5) and its training by triplets (appendix A.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    widths: tuple[Width, Width, Width] = Field(
        default=(128, 64, 32), description="channels of the three pairs of convolutions"
    )
    hidden: int = Field(default=512, ge=1, description="units of each of the two hidden linear layers")
    dim: int = Field(default=100, ge=1, description="numbers in an embedding")
    dropout: float = Field(default=0.1, ge=0, lt=1)
    norm: Norm = Field(default="instance", description="instance: as Table 5 prints; layer: as the released code")

    negatives: Negatives = Field(
        default=NEGATIVES,
        description="one kind is drawn for each triplet; Table 6's rows are growing prefixes of all four",
    )
    objective: Objective = Field(
        default="triplet",
        description="triplet: the paper; semihard, multi_similarity: distance mining on top of all four negatives; "
        "info_nce: the four negatives in one softmax; parts: a content vector learned apart, beside the style",
    )
    normalize: bool = Field(default=False, description="embeddings of length 1")
    memory: int = Field(default=0, ge=0, description="embeddings of earlier batches that mining also looks at")
    temperature: float = Field(default=0.1, gt=0, description="of the softmax in info_nce and parts")
    content_weight: float = Field(default=0.15, ge=0, le=1, description="parts: weight of content in the embedding")
    content_teacher: Literal["auto", "labels", "views"] = Field(
        default="auto",
        description="parts: what content is learned from. labels: the training images' other attributes; views: an "
        "image, its translations and changed views of it are one; auto: labels where there are any and the translator "
        "has a style, else views",
    )
    components: int = Field(default=512, ge=1, description="parts: principal components of content that are kept")
    pool: float = Field(
        default=0.0,
        ge=0,
        description="GB of encoded training images and translations that triplets are chosen from; 0: made anew",
    )
    margin: float = Field(default=0.2, ge=0)
    distance: Distance = Field(default="euclidean", description="in the loss; a search has the same order under both")
    batch: int = Field(default=32, ge=1)
    steps: int = Field(default=30_000, ge=1, description="updates; --minutes ends earlier")
    optimizer: Literal["sgd", "adam"] = Field(default="sgd", description="sgd: the paper, with `momentum`")
    learning_rate: float = Field(default=0.01, gt=0)
    halve_every: int = Field(default=10_000, ge=1, description="steps after which the learning rate is halved")
    momentum: float = Field(default=0.9, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> RetrievalConfig:
        if self.objective != "triplet" and not self.pool:
            raise ValueError(f"objective {self.objective} reads all four negatives: it needs a pool larger than 0")
        if self.memory and self.objective not in ("semihard", "multi_similarity"):
            raise ValueError("memory is for the objectives semihard and multi_similarity")
        if self.memory and self.memory < (2 + len(self.negatives)) * self.batch:
            raise ValueError(f"memory must hold a whole batch: at least {(2 + len(self.negatives)) * self.batch}")
        return self

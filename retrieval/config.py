"""What can be chosen about the retrieval system: one frozen, checked model, by default the paper's values.

It is a section of the whole run's configuration, which `translation` owns; nothing here needs torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NegativeKind = Literal["easy", "medium", "hard", "own_domain"]
NEGATIVES: tuple[NegativeKind, ...] = ("easy", "medium", "hard", "own_domain")

Norm = Literal["instance", "layer"]
Distance = Literal["euclidean", "squared"]
Width = Annotated[int, Field(ge=1)]


def _distinct(kinds: tuple[NegativeKind, ...]) -> tuple[NegativeKind, ...]:
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"a kind of negative is named twice: {', '.join(kinds)}")
    return kinds


Negatives = Annotated[tuple[NegativeKind, ...], Field(min_length=1), AfterValidator(_distinct)]


class RetrievalConfig(BaseModel):
    """Stage 2: the embedding network (RG-UNIT, Table 5) and its training by triplets (appendix A.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    margin: float = Field(default=0.2, ge=0)
    distance: Distance = Field(default="euclidean", description="in the loss; a search has the same order under both")
    batch: int = Field(default=32, ge=1)
    steps: int = Field(default=30_000, ge=1, description="updates; --minutes ends earlier")
    learning_rate: float = Field(default=0.01, gt=0)
    halve_every: int = Field(default=10_000, ge=1, description="steps after which the learning rate is halved")
    momentum: float = Field(default=0.9, ge=0, lt=1)

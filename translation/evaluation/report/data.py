"""What a report is made from: plain arrays and dicts, so that it can be written from a finished run or from a test.

Whatever is None or empty is left out of the page; nothing is made up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Case = Literal["best", "random", "worst"]
Labels = Mapping[str, int | None]


@dataclass(frozen=True)
class Neighbour:
    """A retrieved image [S, S, 3]: `matches` says for each used attribute whether its label is the wanted one."""

    image: Pixels
    path: str
    distance: float
    matches: Mapping[str, bool | None]  # None: its label is unknown
    origin: str = "real"


@dataclass(frozen=True)
class RetrievalRow:
    """One query [S, S, 3] with its top k.

    `score` is the share of wanted labels met, `content` of the query's other labels met (None: it has none). Best
    and worst go by the average of both.
    """

    case: Case
    query: Pixels
    path: str
    edit: str  # "+Blond_Hair −Hat": the attributes that differ from the query's own labels
    target: Labels
    neighbours: Sequence[Neighbour]
    score: float
    content: float | None = None


@dataclass(frozen=True)
class Output:
    """One arm's picture of a pair [S, S, 3]; `right`: for each attribute to change, whether the classifier sees it."""

    arm: str
    image: Pixels
    right: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class TranslationRow:
    """One pair: source [S, S, 3], what it should become, and what each arm made of it.

    `mask` float [S, S] in [0, 1] or uint8 [S, S] of the guided arm (1 = painted, 0 = copied from the source);
    `truth` where the data knows it (built-in drawings).
    """

    case: Case
    source: Pixels
    path: str
    edit: str
    outputs: Sequence[Output]
    neighbours: Sequence[Pixels] = ()
    mask: NDArray[Any] | None = None
    truth: Pixels | None = None
    score: float | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows beyond what the workspace itself says (counts, splits, labels, runs).

    `stages`: {name, seconds, steps} in order, and optionally `run` (its id). `metrics`: rows of each stage's
    metrics.jsonl by a title such as "translation". `retrieval` and `translation`: the JSON of `rgunit evaluate`.
    `commands`: what to type to get the same again.
    """

    title: str
    preset: str
    seed: int
    device: str
    attributes_used: Sequence[str]
    stages: Sequence[Mapping[str, Any]]
    commands: Sequence[str] = ()
    metrics: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    retrieval: Mapping[str, Any] | None = None
    translation: Mapping[str, Any] | None = None
    retrieval_rows: Sequence[RetrievalRow] = ()
    translation_rows: Sequence[TranslationRow] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    peak_memory: int | None = None  # bytes; None: that of this process so far
    notes: Sequence[str] = ()  # what a reader must know: a term that was off, a stage cut short

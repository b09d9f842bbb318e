"""How `run --minutes` divides its time, so that the whole command takes it and not stage 1 to 3 alone.

Stages have their shares. What is left to none is divided between the pool of stage 2, the index and the evaluation:
each does as much as its part allows, by what a translation was measured to take after stage 1. What was decided is kept
in the workspace, so that the same command again does nothing, and a stopped one goes on as it began.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from index_store.errors import UsageError
from index_store.workspace import Workspace
from retrieval.pool import SLOTS, STYLELESS
from retrieval.tensors import to_pixels, to_tensor
from translation.config import Config
from translation.evaluation.config import EvaluationConfig
from translation.methods import Joins
from translation.translator import Translator

KEY = "budget"
POOL, INDEX = 0.2, 0.2  # of what the stages leave; the evaluation has the rest
WRITING = 8.0  # seconds for the report
GUIDED_COST = 1.4  # of a translation that looks up its neighbours, against one that does not
CLASSIFIER, PAIRS, DIVERSITY, RETRIEVAL = 0.35, 0.35, 0.12, 0.15  # of the evaluation's time
READING = 1.5  # times what translations cost: they are read by the classifier as well
LEAST_PAIRS, LEAST_GENERATED, LEAST_POOL = 40, 10, 64
TRIED = 16  # images whose translation is timed


@dataclass(frozen=True)
class Pace:
    """Seconds an image: to translate it (read, encode, decode), and to encode it alone."""

    translate: float
    encode: float


class Budget:
    """The minutes of one `run`, from now; without `minutes` everything is as the configuration says."""

    def __init__(self, workspace: Workspace, config: Config, minutes: float | None, seed: int) -> None:
        if minutes is not None and not 0 < minutes < math.inf:
            raise UsageError(f"minutes must be a positive number, not {minutes}")
        self.workspace, self.config, self.minutes = workspace, config, minutes
        self.started = time.monotonic()
        told = json.dumps([minutes, seed, config.model_dump(mode="json")], sort_keys=True)
        self._key = hashlib.sha256(told.encode()).hexdigest()
        kept = json.loads(workspace.meta(KEY) or "{}")
        self._decided: dict[str, float] = kept.get("decided", {}) if kept.get("key") == self._key else {}

    def share(self, share: float) -> float | None:
        """Minutes of a stage that has this share; None: no limit."""
        return None if self.minutes is None else self.minutes * share

    @property
    def rest(self) -> float:
        """Seconds that no stage has a share in."""
        shares = self.config.shares
        return 60 * (self.minutes or 0) * (1 - shares.translation - shares.retrieval - shares.guided)

    def left(self) -> float:
        """Seconds until the command should end."""
        return 60 * (self.minutes or 0) - (time.monotonic() - self.started)

    def decide(self, name: str, make: Callable[[], float]) -> float:
        """What was decided under a name the first time; it is kept."""
        if name not in self._decided:
            self._decided[name] = float(make())
            self.workspace.set_meta(KEY, json.dumps({"key": self._key, "decided": self._decided}))
        return self._decided[name]

    def pool(self, translator: Translator, pace: Pace) -> float:
        """GB of the pool of stage 2."""
        whole = self.config.retrieval.pool
        if self.minutes is None or not whole:
            return whole

        def fitting() -> float:
            slots = SLOTS if translator.searched.style_dim else STYLELESS
            images = max(LEAST_POOL, POOL * self.rest / ((slots - 1) * pace.translate + pace.encode))
            if images >= len(self.workspace.images("split=train origin=real|unlabelled")):
                return whole
            side = translator.size // 4
            return min(whole, images * 2 * slots * translator.content_channels * side**2 / 1e9)

        return self.decide("pool", fitting)

    def generated(self, pace: Pace) -> int:
        """Translations that are made and indexed."""
        whole = self.config.index.generated
        if self.minutes is None:
            return whole

        def fitting() -> float:
            free = INDEX * self.rest - pace.encode * len(self.workspace.images())
            return min(whole, max(LEAST_GENERATED, free / (pace.translate + pace.encode)))

        return int(self.decide("generated", fitting))

    def guided(self) -> float | None:
        """Minutes of the three arms together: their share, less what the stages before took too long."""
        share = self.share(self.config.shares.guided)
        if share is None:
            return None
        judging = (1 - POOL - INDEX) * self.rest
        return self.decide("guided", lambda: min(share, max(share / 4, (self.left() - judging) / 60)))

    def evaluation(self, pace: Pace, arms: int) -> EvaluationConfig:
        """What an evaluation of so many translating arms can do in what is left."""
        whole = self.config.evaluation
        if self.minutes is None:
            return whole
        seconds = max(self.left() - WRITING, 0.3 * self.rest)
        each = pace.translate * (1 + GUIDED_COST * (arms - 1))  # of one pair, by all arms
        samples = each * whole.diversity_samples
        there = min(whole.pairs, len(self.workspace.images("split=test origin=real")) // 2)
        pairs = min(there, max(LEAST_PAIRS, PAIRS * seconds // each))
        inputs = min(whole.diversity_inputs, max(2, DIVERSITY * seconds // samples))
        # What pairs and samples do not need is the classifier's: without it no figure means much.
        free = (1 - RETRIEVAL) * seconds - READING * (pairs * each + inputs * samples)
        judge = min(whole.classifier_minutes, max(CLASSIFIER * seconds, free) / 60)
        return whole.model_copy(
            update={
                "classifier_minutes": self.decide("classifier_minutes", lambda: judge),
                "pairs": int(self.decide("pairs", lambda: pairs if pairs < there else whole.pairs)),
                "diversity_inputs": int(self.decide("diversity_inputs", lambda: inputs)),
            }
        )


@torch.no_grad()
def measured_pace(workspace: Workspace, translator: Translator) -> Pace:
    """By a few training images, the second time that they go through."""
    ids = workspace.images("split=train").ids[:TRIED]
    labels = torch.zeros(len(ids), len(translator.schema.names), dtype=torch.int64)
    if isinstance(translator.method, Joins):
        labels[:, 0] = 1  # any domain takes as long
    translator = translator.told(labels)
    style = translator.style_mean(labels)
    translate = encode = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        images = to_tensor(workspace.load(ids, translator.size), translator.device)
        content = translator.content(images)
        np.asarray(translator.style(images).float().cpu())
        encode = time.perf_counter() - begun
        to_pixels(translator.translate(images, content, style.to(translator.device)).image)
        translate = time.perf_counter() - begun
    return Pace(translate / max(1, len(ids)), encode / max(1, len(ids)))

"""Every arm on the same pairs: what changed, what stayed, how far from real pictures, and how sure all that is.

An arm is a function from (source ids, target labels, seeds) to images. Two arms are made here, as controls that a
good measure must not reward: `copy` returns the input, `neighbour` returns the top hit of the search.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from index_store.errors import RgunitError
from index_store.images import write_image
from index_store.workspace import Workspace
from retrieval.onnx import OnnxNetwork
from translation.evaluation.classifier import AttributeClassifier
from translation.evaluation.config import EvaluationConfig
from translation.evaluation.distances import Resamples, cosine_distance, frechet, pixel_distance
from translation.evaluation.protocol import Pairs, check_neighbours
from translation.evaluation.scores import INTERVALS, PairScores, comparisons, figures, intervals

Ids = NDArray[np.int64]
Labels = NDArray[np.int8]
Images = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]  # (arm, images done, images in all)


class ArmTranslator(Protocol):
    """What is compared.

    `source` int64 [n] image ids, `target` int8 [n, U] wanted labels of the used attributes (−1: not known, leave),
    `seeds` int64 [n], one for each style sample: the same (source, target, seed) gives the same image in any batch.
    Returns uint8 [n, S, S, 3], S the classifier's size.
    """

    def __call__(self, source: Ids, target: Labels, seeds: Ids) -> Images: ...


class TopHit(Protocol):
    """The retrieval behind the arm `neighbour`: int64 [n], the nearest image that guidance may use."""

    def __call__(self, source: Ids, target: Labels, seeds: Ids) -> Ids: ...


class Truth(Protocol):
    """The true translations of drawn images, uint8 [n, S, S, 3], or None where they are not known."""

    def __call__(self, source: Ids, target: Labels) -> Images | None: ...


@dataclass(frozen=True)
class Evaluation:
    """`summary` is the command's JSON; `scores` keeps every pair of every arm for a closer look."""

    summary: dict[str, Any]
    pairs: Pairs
    scores: dict[str, PairScores]

    def cases(self, arm: str, count: int, seed: int = 0) -> dict[str, list[int]]:
        """Rows of `pairs` to look at, `count` each: "best", "worst" and, of all pairs, "random".

        By the distance to the truth where it is known, else by the likeness of the changed bits.
        """
        scores = self.scores[arm]
        badness = scores.truth if scores.truth is not None else -scores.likeness
        order = np.argsort(badness, kind="stable")
        drawn = np.random.default_rng(seed).permutation(len(order))
        chosen = {"best": order[:count], "random": np.sort(drawn[:count]), "worst": order[::-1][:count]}
        return {name: [int(row) for row in rows] for name, rows in chosen.items()}

    def save(self, folder: Path) -> None:
        """`translation.json` (the summary) and `pairs.jsonl` in a folder, each written whole."""
        self.pairs.save(folder / "pairs.jsonl")
        part = folder / "translation.json.part"
        part.write_text(json.dumps(self.summary, indent=1) + "\n")
        part.replace(folder / "translation.json")


def copy_arm(workspace: Workspace, size: int) -> ArmTranslator:
    """The control that changes nothing: the input itself."""

    def translate(source: Ids, target: Labels, seeds: Ids) -> Images:
        return workspace.load(source, size)

    return translate


def neighbour_arm(workspace: Workspace, size: int, top_hit: TopHit, *, split: str = "test") -> ArmTranslator:
    """The control that generates nothing: the top hit itself. RgunitError where it is an image of `split`."""

    def translate(source: Ids, target: Labels, seeds: Ids) -> Images:
        found = top_hit(source, target, seeds)
        if (found < 0).any():
            raise RgunitError("nothing was retrieved for a translation: fill the index first (rgunit index build)")
        check_neighbours(workspace, source, found, split)
        return workspace.load(found, size)

    return translate


def evaluate_translation(
    workspace: Workspace,
    *,
    arms: Mapping[str, ArmTranslator],
    pairs: Pairs,
    classifier: AttributeClassifier,
    config: EvaluationConfig,
    judge: OnnxNetwork | None = None,
    truth: Truth | None = None,
    out: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs every arm on every pair and compares them.

    `summary`: for each arm {accuracy_changed, accuracy_kept, accuracy_other, fd_attr, fd_judge, diversity, identity,
    truth, n} with None where it cannot be computed; `floor` (real images of half A against those of half B);
    `intervals` {arm: {measure: [low, high]}}; `comparisons` {"guided vs unguided": {measure: {difference, interval,
    verdict}}}; `classifier` and `protocol`. With `out`, every image stays there with a manifest.jsonl.
    """
    size = classifier.size
    real = _Reference(workspace, pairs, classifier, judge)
    goal = truth(pairs.source, pairs.target) if truth is not None else None
    resamples = Resamples.draw(pairs.people, config.bootstrap, seed)
    scores: dict[str, PairScores] = {}
    with ExitStack() as stack:
        keep = stack.enter_context(_Keeper(workspace, pairs, out)) if out is not None else None
        for name, arm in arms.items():
            scores[name] = _measure(name, arm, pairs, classifier, real, config, judge, goal, keep, seed, progress)
    summary: dict[str, Any] = {name: figures(arm, pairs) for name, arm in scores.items()}
    summary["floor"] = {
        "fd_attr": frechet(real.source_features, real.other_features).distance,
        "fd_judge": None if judge is None else frechet(real.source_judged, real.other_judged).distance,
        "accuracy": real.accuracy,
        "n": len(pairs.others),
    }
    summary["intervals"] = {name: intervals(arm, pairs, resamples) for name, arm in scores.items()}
    summary["comparisons"] = comparisons(scores, pairs, resamples)
    summary["classifier"] = {
        "architecture": classifier.architecture,
        "size": size,
        "accuracy": None if math.isnan(classifier.accuracy) else classifier.accuracy,
        "per_attribute": classifier.per_attribute,
    }
    summary["protocol"] = {
        "attributes": list(pairs.attributes),
        "pairs": len(pairs),
        "people": len(set(pairs.people)),
        "reference_images": len(pairs.others),
        "reference_people": len(set(pairs.other_people)),
        "changed_bits": int(pairs.changed.sum()),
        "kept_bits": int(pairs.kept.sum()),
        "seed": seed,
        "intervals": INTERVALS,
        "judge": None if judge is None else {"path": str(judge.path.absolute()), "crop": judge.crop},
    }
    return Evaluation(summary, pairs, scores)


class _Reference:
    """What the classifier and the judge read off the real images: the sources, and half B."""

    def __init__(
        self, workspace: Workspace, pairs: Pairs, classifier: AttributeClassifier, judge: OnnxNetwork | None
    ) -> None:
        source = workspace.load(pairs.source, classifier.size)
        others = workspace.load(pairs.others, classifier.size)
        self.columns = [classifier.names.index(name) for name in pairs.attributes]
        self.unused = [column for column in range(len(classifier.names)) if column not in self.columns]
        reading, reference = classifier.read(source), classifier.read(others)
        self.source_bits, self.source_features = reading.bits, reading.features
        self.other_features = reference.features
        table = workspace.images(ids=pairs.others)
        columns = workspace.schema.indices(pairs.attributes)
        labels = table.labels[table.places(pairs.others)][:, columns]
        known = labels >= 0
        self.accuracy = float((reference.bits[:, self.columns] == labels)[known].mean())
        empty = np.zeros((0, 0), np.float32)
        self.source_judged = empty if judge is None else judge.features(source)
        self.other_judged = empty if judge is None else judge.features(others)


def _measure(
    name: str,
    arm: ArmTranslator,
    pairs: Pairs,
    classifier: AttributeClassifier,
    real: _Reference,
    config: EvaluationConfig,
    judge: OnnxNetwork | None,
    goal: Images | None,
    keep: _Keeper | None,
    seed: int,
    progress: Progress | None,
) -> PairScores:
    """One arm on all pairs, batch by batch: its images are read and let go."""
    repeated = np.sort(np.random.default_rng(seed).permutation(len(pairs))[: config.diversity_inputs])
    total = len(pairs) + len(repeated) * config.diversity_samples
    logits, features, judged, distances = [], [], [], []
    for start in range(0, len(pairs), config.batch):
        rows = np.arange(start, min(start + config.batch, len(pairs)))
        images = arm(pairs.source[rows], pairs.target[rows], pairs.seeds[rows])
        reading = classifier.read(images)
        logits.append(reading.logits)
        features.append(reading.features)
        if judge is not None:
            judged.append(judge.features(images))
        if goal is not None:
            distances.append(pixel_distance(images, goal[rows]))
        if keep is not None:
            keep(name, rows, images)
        if progress is not None:
            progress(name, int(rows[-1]) + 1, total)
    diversity = []
    for done, row in enumerate(repeated):
        several = np.full(config.diversity_samples, row)
        seeds = (pairs.seeds[several] + 7919 * np.arange(config.diversity_samples)) % 2**31
        diversity.append(classifier.diversity(arm(pairs.source[several], pairs.target[several], seeds)))
        if progress is not None:
            progress(name, len(pairs) + (done + 1) * config.diversity_samples, total)
    seen = np.concatenate(logits)
    used = seen[:, real.columns].astype(np.float64)
    confidence = 1 / (1 + np.exp(np.where(pairs.target == 1, -used, used)))
    changed = pairs.changed
    agreement = ((seen > 0) == (real.source_bits == 1))[:, real.unused]
    identities = np.concatenate(judged) if judged else None
    return PairScores(
        right=(used > 0) == (pairs.target == 1),
        likeness=(confidence * changed).sum(1) / changed.sum(1),
        other=agreement.mean(1) if real.unused else None,
        truth=np.concatenate(distances) if distances else None,
        identity=None if identities is None else cosine_distance(identities, real.source_judged),
        fd_attr=frechet(np.concatenate(features), real.other_features),
        fd_judge=None if identities is None else frechet(identities, real.other_judged),
        diversity=float(np.mean(diversity)) if diversity else None,
    )


class _Keeper:
    """Keeps images as ARM/ROW.png under a folder, with a manifest.jsonl that appears when all are there."""

    def __init__(self, workspace: Workspace, pairs: Pairs, folder: Path) -> None:
        self._folder, self._pairs = folder.absolute(), pairs
        table = workspace.images(ids=np.unique(pairs.source))
        self._paths = {int(key): path for key, path in zip(table.ids, table.paths, strict=True)}

    def __enter__(self) -> _Keeper:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pairs.save(self._folder / "pairs.jsonl")
        self._part = self._folder / "manifest.jsonl.part"
        self._lines: TextIO = self._part.open("w")
        return self

    def __call__(self, arm: str, rows: Ids, images: Images) -> None:
        (self._folder / arm).mkdir(exist_ok=True)
        for row, image in zip(rows, images, strict=True):
            path = self._folder / arm / f"{row:05d}.png"
            write_image(path, image)
            bits = zip(self._pairs.attributes, self._pairs.target[row].tolist(), strict=True)
            line = {
                "source": str(self._paths[int(self._pairs.source[row])]),
                "target": {name: None if bit < 0 else bit for name, bit in bits},
                "arm": arm,
                "path": str(path),
            }
            self._lines.write(json.dumps(line) + "\n")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._lines.close()
        if kind is None:
            self._part.replace(self._folder / "manifest.jsonl")

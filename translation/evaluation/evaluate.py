"""Every arm on the same pairs: what changed, what stayed, how far from real pictures, and how sure all that is.

An arm is a function from (source ids, target labels, seeds) to images. Two arms are made here, as controls that a
good measure must not reward: `copy` returns the input, `neighbour` returns the top hit of the search.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from index_store.attributes import named
from index_store.errors import RgunitError
from index_store.images import write_image
from index_store.whole import whole, write_json
from index_store.workspace import Workspace
from retrieval.onnx import OnnxNetwork
from translation.evaluation.classifier import AttributeClassifier
from translation.evaluation.config import EvaluationConfig
from translation.evaluation.copies import CopyMeter, copy_threshold
from translation.evaluation.distances import cosine_distance, frechet, pixel_distance
from translation.evaluation.inception import Inception, PerceptualDistance, inception_score, kernel_distance
from translation.evaluation.protocol import Pairs, check_neighbours, seeds_of_samples
from translation.evaluation.relevance import ContentReader
from translation.evaluation.reverse import ReverseMeter
from translation.evaluation.scores import INTERVALS, Draws, PairScores, comparisons, figures, intervals
from translation.evaluation.truth import Goal, Truth
from translation.guides import Pool

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


@runtime_checkable
class GuidedTranslator(Protocol):
    """An arm that can also tell which images guided it: (images [n, S, S, 3], ids int64 [n, k], −1 or k = 0: none)."""

    def guided(self, source: Ids, target: Labels, seeds: Ids) -> tuple[Images, Ids]: ...


class TopHit(Protocol):
    """The retrieval behind the arm `neighbour`: int64 [n], the nearest image that guidance may use."""

    def __call__(self, source: Ids, target: Labels, seeds: Ids) -> Ids: ...


@dataclass(frozen=True)
class Evaluation:
    """`summary` is the command's JSON; `scores` keeps every pair of every arm for a closer look."""

    summary: dict[str, Any]
    pairs: Pairs
    scores: dict[str, PairScores]

    def save(self, folder: Path) -> None:
        """`translation.json` (the summary) and `pairs.jsonl` in a folder, each written whole."""
        self.pairs.save(folder / "pairs.jsonl")
        write_json(folder / "translation.json", self.summary)


def copy_arm(workspace: Workspace, size: int) -> ArmTranslator:
    """The control that changes nothing: the input itself."""

    def translate(source: Ids, target: Labels, seeds: Ids) -> Images:
        return workspace.load(source, size)

    return translate


@dataclass(frozen=True)
class _NeighbourArm:
    workspace: Workspace
    size: int
    top_hit: TopHit
    split: str
    pool: Pool

    def guided(self, source: Ids, target: Labels, seeds: Ids) -> tuple[Images, Ids]:
        found = self.top_hit(source, target, seeds)
        if (found < 0).any():
            raise RgunitError("nothing was retrieved for a translation: fill the index first (rgunit index build)")
        check_neighbours(self.workspace, source, found, self.split, self.pool)
        return self.workspace.load(found, self.size), found[:, None]

    def __call__(self, source: Ids, target: Labels, seeds: Ids) -> Images:
        return self.guided(source, target, seeds)[0]


def neighbour_arm(
    workspace: Workspace, size: int, top_hit: TopHit, *, split: str = "test", pool: Pool = "real"
) -> ArmTranslator:
    """The control that generates nothing: the top hit itself. RgunitError where it is none that may guide."""
    return _NeighbourArm(workspace, size, top_hit, split, pool)


def evaluate_translation(
    workspace: Workspace,
    *,
    arms: Mapping[str, ArmTranslator],
    pairs: Pairs,
    classifier: AttributeClassifier,
    config: EvaluationConfig,
    judge: OnnxNetwork | None = None,
    inception: Inception | None = None,
    lpips: PerceptualDistance | None = None,
    truth: Truth | None = None,
    relevance: ContentReader | None = None,
    one_way: bool = False,
    out: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs every arm on every pair and compares them.

    `summary`: for each arm {accuracy_changed, accuracy_kept, accuracy_other, fd_attr, fd_judge, diversity, identity,
    truth, truth_edit, neighbour_copies, reverse, relevance, fid, kid, inception_score, lpips, n}, None where it cannot
    be computed;
    `floor` (real images of half A against those of half B); `intervals` {arm: {measure: [low, high]}}; `comparisons`
    {"guided vs unguided": {measure: {difference, interval, verdict}}}; `classifier` and `protocol`. With `out`, every
    image stays there with a manifest.jsonl. `one_way`: sources and references are of two domains, so the Fréchet
    distance of the real ones is no floor and is left out, and so are copies of neighbours.
    """
    goal = Goal.of(truth, pairs.source, pairs.target) if truth is not None else None
    real = _Reference(workspace, pairs, classifier, config, judge, inception, lpips, goal, seed, relevance, one_way)
    draws = Draws.draw(pairs, config.bootstrap, seed)
    scores: dict[str, PairScores] = {}
    with ExitStack() as stack:
        keep = stack.enter_context(_Keeper(workspace, pairs, out)) if out is not None else None
        for name, arm in arms.items():
            scores[name] = _measure(name, arm, real, keep, progress)
    summary: dict[str, Any] = {name: figures(arm, pairs) for name, arm in scores.items()}
    summary["floor"] = real.floor()
    summary["intervals"] = {name: intervals(arm, pairs, draws) for name, arm in scores.items()}
    summary["comparisons"] = comparisons(scores, pairs, draws)
    summary["classifier"] = {
        "architecture": classifier.architecture,
        "size": classifier.size,
        "accuracy": None if math.isnan(classifier.accuracy) else classifier.accuracy,
        "per_attribute": classifier.per_attribute,
        "steps": classifier.steps,
        "planned_steps": classifier.planned,
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
        "copy_threshold": None if real.copies is None else real.copies.threshold,
        "copy_features": "classifier" if judge is None else "judge",
        "relevance": None if relevance is None else {"field": relevance.field, "values": len(relevance.values)},
        "reverse_steps": None if real.reverse is None else real.reverse.steps,
        "inception": None if inception is None else str(inception.path.absolute()),
        "lpips": None if lpips is None else {"path": str(lpips.path.absolute()), "network": lpips.kind},
    }
    return Evaluation(summary, pairs, scores)


class _Reference:
    """The networks that measure, and what they read off the real images: the sources, and half B."""

    def __init__(
        self,
        workspace: Workspace,
        pairs: Pairs,
        classifier: AttributeClassifier,
        config: EvaluationConfig,
        judge: OnnxNetwork | None,
        inception: Inception | None,
        lpips: PerceptualDistance | None,
        goal: Goal | None,
        seed: int,
        relevance: ContentReader | None,
        one_way: bool,
    ) -> None:
        self.relevance, self.one_way = relevance, one_way
        self.pairs, self.config, self.seed, self.goal = pairs, config, seed, goal
        self.classifier, self.judge, self.inception, self.lpips = classifier, judge, inception, lpips
        source = workspace.load(pairs.source, classifier.size)
        others = workspace.load(pairs.others, classifier.size)
        self.columns = [classifier.names.index(name) for name in pairs.attributes]
        self.unused = [column for column in range(len(classifier.names)) if column not in self.columns]
        reading, reference = classifier.read(source), classifier.read(others)
        self.source_bits, self.source_features = reading.bits, reading.features
        self.other_features = reference.features
        table = workspace.images(ids=pairs.others)
        labels = table.labels[table.places(pairs.others)][:, workspace.schema.indices(pairs.attributes)]
        known = labels >= 0
        self.accuracy = float((reference.bits[:, self.columns] == labels)[known].mean())
        empty = np.zeros((0, 0), np.float32)
        self.source_judged = empty if judge is None else judge.features(source)
        self.other_judged = empty if judge is None else judge.features(others)
        self.source_inception = None if inception is None else inception.read(source)
        self.other_inception = empty if inception is None else inception.read(others).features
        features = (self.source_features, self.other_features)
        mine, theirs = features if judge is None else (self.source_judged, self.other_judged)
        see = (lambda images: classifier.read(images).features) if judge is None else judge.features
        self.copies: CopyMeter | None = None  # measured by how near a real image comes to one of the other half
        if not one_way:
            self.copies = CopyMeter(workspace, classifier.size, see, copy_threshold(theirs, mine))
        self.reverse: ReverseMeter | None = None
        if config.reverse:
            device = str(classifier.device)
            self.reverse = ReverseMeter(pairs.attributes, others, labels.astype(np.int8), config, device, seed)
            hits, counts = self.reverse.score(source, pairs.before).sum(0)
            self.real_reverse = float(hits / counts)

    def floor(self) -> dict[str, Any]:
        """The same measures of the real images of half A, as far as they have a meaning."""
        score = self.source_inception
        seen = None if self.one_way else score
        judged = self.judge is not None and not self.one_way
        return {
            "fd_attr": None if self.one_way else frechet(self.source_features, self.other_features).distance,
            "fd_judge": frechet(self.source_judged, self.other_judged).distance if judged else None,
            "accuracy": self.accuracy,
            "reverse": None if self.reverse is None else self.real_reverse,
            "relevance": None if self.relevance is None else self.relevance.accuracy,
            "fid": None if seen is None else frechet(seen.features, self.other_inception).distance,
            "kid": None if seen is None else kernel_distance(seen.features, self.other_inception, self.seed),
            "inception_score": None if score is None else inception_score(score.logits, self.seed),
            "n": len(self.pairs.others),
        }


@dataclass
class _Readings:
    """What was read of one arm's images, a list an array of batches; images themselves only where they teach."""

    logits: list[NDArray[np.float32]] = field(default_factory=list)
    features: list[NDArray[np.float32]] = field(default_factory=list)
    judged: list[NDArray[np.float32]] = field(default_factory=list)
    inception: list[NDArray[np.float32]] = field(default_factory=list)
    inception_logits: list[NDArray[np.float32]] = field(default_factory=list)
    truth: list[NDArray[np.float64]] = field(default_factory=list)
    truth_edit: list[NDArray[np.float64]] = field(default_factory=list)
    copied: list[NDArray[np.bool_]] = field(default_factory=list)
    kept: list[NDArray[np.int64]] = field(default_factory=list)
    images: list[Images] = field(default_factory=list)

    def add(self, images: Images, neighbours: Ids | None, rows: Ids, real: _Reference) -> None:
        """Read the images [n, S, S, 3] of the pairs `rows`, guided by `neighbours` [n, k] or by none."""
        reading = real.classifier.read(images)
        self.logits.append(reading.logits)
        self.features.append(reading.features)
        if real.judge is not None:
            self.judged.append(real.judge.features(images))
        if real.inception is not None:
            seen = real.inception.read(images)
            self.inception.append(seen.features)
            self.inception_logits.append(seen.logits)
        if real.goal is not None:
            goal = real.goal.images[rows]
            self.truth.append(pixel_distance(images, goal))
            self.truth_edit.append(pixel_distance(images, goal, real.goal.edited[rows]))
        if real.copies is not None and neighbours is not None and neighbours.shape[1]:
            features = self.features if real.judge is None else self.judged
            self.copied.append(real.copies.copied(features[-1], neighbours))
        if real.reverse is not None:
            self.images.append(images)


def _measure(
    name: str, arm: ArmTranslator, real: _Reference, keep: _Keeper | None, progress: Progress | None
) -> PairScores:
    """One arm on all pairs, batch by batch: its images are read and let go."""
    pairs, config = real.pairs, real.config
    repeated = np.sort(np.random.default_rng(real.seed).permutation(len(pairs))[: config.diversity_inputs])
    total = len(pairs) + len(repeated) * config.diversity_samples
    read, both_halves = _Readings(), np.concatenate([pairs.source, pairs.others])
    for start in range(0, len(pairs), config.batch):
        rows = np.arange(start, min(start + config.batch, len(pairs)))
        wanted = (pairs.source[rows], pairs.target[rows], pairs.seeds[rows])
        images, neighbours = arm.guided(*wanted) if isinstance(arm, GuidedTranslator) else (arm(*wanted), None)
        if neighbours is not None and (judged := np.isin(neighbours, both_halves)).any():
            raise RgunitError(
                f"{name} was guided by image {neighbours[judged][0]}, which is judged itself: guidance may only "
                "retrieve images outside the judged split"
            )
        read.add(images, neighbours, rows, real)
        if real.relevance is not None:
            read.kept.append(real.relevance.kept(images, rows))
        if keep is not None:
            keep(name, rows, images)
        if progress is not None:
            progress(name, int(rows[-1]) + 1, total)
    diversity, perceptual = [], []
    for done, row in enumerate(repeated):
        several = np.full(config.diversity_samples, row)
        seeds = seeds_of_samples(pairs.seeds[row], config.diversity_samples)
        samples = arm(pairs.source[several], pairs.target[several], seeds)
        diversity.append(real.classifier.diversity(samples))
        if real.lpips is not None:
            perceptual.append(real.lpips.diversity(samples))
        if progress is not None:
            progress(name, len(pairs) + (done + 1) * config.diversity_samples, total)
    seen = np.concatenate(read.logits)
    used = seen[:, real.columns].astype(np.float64)
    confidence = 1 / (1 + np.exp(np.where(pairs.target == 1, -used, used)))
    changed = pairs.changed
    agreement = ((seen > 0) == (real.source_bits == 1))[:, real.unused]
    identities = np.concatenate(read.judged) if read.judged else None
    inception = np.concatenate(read.inception) if read.inception else None
    reverse = real.reverse
    return PairScores(
        right=(used > 0) == (pairs.target == 1),
        likeness=(confidence * changed).sum(1) / changed.sum(1),
        other=agreement.mean(1) if real.unused else None,
        truth=np.concatenate(read.truth) if read.truth else None,
        truth_edit=np.concatenate(read.truth_edit) if read.truth_edit else None,
        identity=None if identities is None else cosine_distance(identities, real.source_judged),
        fd_attr=frechet(np.concatenate(read.features), real.other_features),
        fd_judge=None if identities is None else frechet(identities, real.other_judged),
        diversity=float(np.mean(diversity)) if diversity else None,
        copies=np.concatenate(read.copied) if read.copied else None,
        relevance=np.concatenate(read.kept) if read.kept else None,
        reverse=None if reverse is None else reverse.score(np.concatenate(read.images), pairs.target),
        fid=None if inception is None else frechet(inception, real.other_inception),
        kid=None if inception is None else kernel_distance(inception, real.other_inception, real.seed),
        inception_score=inception_score(np.concatenate(read.inception_logits), real.seed)
        if read.inception_logits
        else None,
        lpips=float(np.mean(perceptual)) if perceptual else None,
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
        self._open = ExitStack()
        part = self._open.enter_context(whole(self._folder / "manifest.jsonl"))
        self._lines: TextIO = self._open.enter_context(part.open("w"))
        return self

    def __call__(self, arm: str, rows: Ids, images: Images) -> None:
        (self._folder / arm).mkdir(exist_ok=True)
        for row, image in zip(rows, images, strict=True):
            path = self._folder / arm / f"{row:05d}.png"
            write_image(path, image)
            line = {
                "source": str(self._paths[int(self._pairs.source[row])]),
                "target": named(self._pairs.attributes, self._pairs.target[row]),
                "arm": arm,
                "path": str(path),
            }
            self._lines.write(json.dumps(line) + "\n")

    def __exit__(self, *failure: Any) -> None:
        self._open.__exit__(*failure)

"""How good images from noise are, without pairs: near to real ones, as different as real ones, and none of them copied.

All in the features of the workspace's attribute classifier. References are test images of the domain that the generator
learned, whose training images it must not give back: the nearest of them is looked up in a store of our own, and counts
as a copy when it is nearer than the nearest of 99 in 100 test images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.errors import RgunitError
from index_store.learned import learned_from, left_out
from index_store.store import IndexStore
from index_store.workspace import RunRecord, Workspace
from translation.evaluation.classifier import AttributeClassifier, train_classifier
from translation.evaluation.distances import Z95, frechet, interval, jackknife_error, kernel_discrepancy, unit
from translation.evaluation.protocol import people_of
from translation.generator import ImageGenerator
from translation.methods.parts import COLLAPSED
from translation.progress import Progress
from translation.runs import target_of

Images = NDArray[np.uint8]
Features = NDArray[np.float32]
LEARNED = 1 / 3  # of an untrained generator's FD-attr: above it nothing was learned
NEAR = 0.01  # of test images that are as near to a training image as a copy
SHOWN = 40  # images whose pairs are compared for diversity


@dataclass(frozen=True)
class Domain:
    """What a generator is judged by: features of real test images, their people and diversity, those of the images that
    it learned from, and the distance to the nearest of these under which an image is a copy."""

    test: Features
    people: list[str]
    diversity: float
    train: Features
    threshold: float
    floor: dict[str, float | int | None]


def evaluate_generator(
    workspace: Workspace,
    *,
    run: str | None = None,
    count: int = 1000,
    target: str | None = None,
    split: str = "test",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """A run of stage generator or miner (by default the newest) by `count` of its images.

    {run, stage, fd_attr, kmmd, diversity, nearest, copies, n, selector, floor, untrained, learned, collapsed,
    intervals}. fd_attr and kmmd are to real images of `split` that pass `target` (default: the filter it learned from);
    diversity is that of pairs, as a share of real ones'; nearest the mean distance to the nearest training image,
    copies the share that is nearer than a copy. `floor` says the same of the training images. `learned`: fd_attr is
    under a third of an untrained generator's; `collapsed`: diversity is under a fifth. RgunitError where fewer than two
    images of the split are left.
    """
    progress = progress or Progress()
    generator = ImageGenerator.load(workspace, run, device)
    assert generator.run is not None
    where = target_of(generator.run) if target is None else target
    progress.stage("classifier")
    classifier = train_classifier(
        workspace, generator.size, generator.config.evaluation, device=str(generator.device), progress=progress.step
    )
    progress.stage("evaluate")
    domain = read_domain(workspace, classifier, generator.run, where, split, progress)
    found = measure(drawn(generator, count, seed, progress), classifier, domain)
    untrained = frechet(classifier.read(drawn(generator.untrained(seed), count, seed)).features, domain.test).distance
    found |= {"floor": domain.floor, "untrained": {"fd_attr": untrained}}
    found["learned"] = bool(found["fd_attr"] < LEARNED * untrained)
    for warning in warnings(found):
        progress.note(warning)
    return {
        "run": generator.run.id,
        "stage": generator.run.stage,
        "target": where,
        **found,
        "selector": generator.probabilities,
    }


def drawn(generator: ImageGenerator, count: int, seed: int, progress: Progress | None = None) -> Images:
    """uint8 [count, S, S, 3]: images of a generator."""
    every: list[Images] = []
    for images, _ in generator.images(count, seed=seed):
        every.append(images)
        if progress is not None:
            progress.step(sum(map(len, every)), count)
    return np.concatenate(every)


def read_domain(
    workspace: Workspace,
    classifier: AttributeClassifier,
    run: RunRecord,
    where: str,
    split: str,
    progress: Progress,
) -> Domain:
    """The real images of a domain: those of `split`, and those that a run learned from.

    What its sources learned from is no copy when it is given back, but never judged either.
    """
    table = workspace.images(f"split={split} origin=real {where}".strip())
    barred = left_out(table.ids, learned_from(workspace, [run]), split)
    table = table.select(~barred)
    if len(table) < 2:
        raise RgunitError(
            f"{where or 'the workspace'} has {len(table)} real images of split {split} to compare with, and 2 are "
            "needed: add some, or name others by --target FILTER"
        )
    if barred.any():
        progress.note(f"{int(barred.sum())} images of split {split} are left out: the runs learned from them")
    own = np.intersect1d(learned_from(workspace, [run], deep=False), workspace.images().ids)
    if len(own) < 2:
        raise RgunitError(f"the images that run {run.id} learned from are gone: train it again")
    images, learned = workspace.load(table.ids, classifier.size), workspace.load(own, classifier.size)
    test, train = classifier.read(images).features, classifier.read(learned).features
    nearest = nearest_distance(test, train)
    threshold = float(np.quantile(nearest, NEAR))
    floor: dict[str, float | int | None] = {
        "fd_attr": frechet(train, test).distance,
        "kmmd": kernel_discrepancy(train, test),
        "diversity": 1.0,
        "nearest": float(nearest.mean()),
        "copies": NEAR,
        "n": len(table),
        "learned_from": len(own),
    }
    return Domain(test, people_of(table), _diversity(classifier, images), train, threshold, floor)


def measure(images: Images, classifier: AttributeClassifier, domain: Domain) -> dict[str, Any]:
    """The figures of images uint8 [n, S, S, 3], with 95 % intervals of those that have one."""
    features = classifier.read(images).features
    distance = frechet(features, domain.test)
    error = jackknife_error([(distance.influence_a, None), (distance.influence_b, domain.people)])
    nearest = nearest_distance(features, domain.train)
    copied = nearest < domain.threshold
    share = float(copied.mean())
    spread = Z95 * float(np.sqrt(share * (1 - share) / len(copied)))
    diversity = _diversity(classifier, images) / max(domain.diversity, 1e-12)
    return {
        "fd_attr": distance.distance,
        "kmmd": kernel_discrepancy(features, domain.test),
        "diversity": diversity,
        "nearest": float(nearest.mean()),
        "copies": share,
        "n": len(images),
        "collapsed": bool(diversity < COLLAPSED),
        "intervals": {
            "fd_attr": list(interval(distance.distance, error)),
            "copies": [max(0.0, share - spread), min(1.0, share + spread)],
        },
    }


def nearest_distance(features: Features, others: Features) -> NDArray[np.float64]:
    """Euclidean distance [n] of features [n, d] to the nearest of `others` [m, d], all at length 1, by our store."""
    with tempfile.TemporaryDirectory(prefix="rgunit-") as folder:
        place = Path(folder) / "store"
        with IndexStore.create(place, dim=others.shape[1], attributes=(), vectors="files") as store:
            store.add(unit(others))
            found = store.search(unit(features), k=1, exact=True)
    return np.sqrt(np.maximum(found.distances[:, 0].astype(np.float64), 0.0))


def warnings(found: Mapping[str, Any]) -> list[str]:
    """What a user must know of a generator's figures before anything else."""
    told = []
    if found["collapsed"]:
        told.append(
            f"the generator has collapsed: its images differ {found['diversity']:.2f} times as much as real ones"
        )
    if not found["learned"]:
        told.append(
            f"the generator has not learned: its FD-attr, {found['fd_attr']:.1f}, is not under a third of an untrained "
            f"one's, {found['untrained']['fd_attr']:.1f}"
        )
    if found["copies"] > 5 * NEAR:
        told.append(
            f"{found['copies']:.0%} of its images are as near to a training image as {NEAR:.0%} of real ones are"
        )
    return told


def _diversity(classifier: AttributeClassifier, images: Images) -> float:
    return classifier.diversity(images[:SHOWN])

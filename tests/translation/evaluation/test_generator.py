"""Images from noise without pairs: distances made by hand, copies found by the store, warnings; who may guide."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index_store.errors import RgunitError
from index_store.learned import keep_learned
from index_store.workspace import GeneratedImage, Workspace
from tests.translation.small import Notes
from translation.evaluation.classifier import AttributeClassifier
from translation.evaluation.distances import kernel_discrepancy
from translation.evaluation.generator import evaluate_generator, measure, nearest_distance, read_domain, warnings
from translation.evaluation.protocol import check_neighbours
from translation.guides import drawing_runs, not_drawn
from translation.progress import Progress


def test_the_kernel_discrepancy_is_0_between_like_sets_and_grows_with_the_distance() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300, 4))
    near, far = kernel_discrepancy(a + 0.5, b), kernel_discrepancy(a + 2, b)
    assert kernel_discrepancy(a, b) < 0.05 < near < far < 1.5
    # two points a side, by hand: the median of ‖b − b′‖² is 4, the kernel of it e^(−½)
    one, two = np.array([[0.0], [2.0]]), np.array([[10.0], [12.0]])
    between = np.mean([np.exp(-((x - y) ** 2) / 8) for x in (0, 2) for y in (10, 12)])
    assert kernel_discrepancy(one, two) == pytest.approx(np.sqrt(2 * np.exp(-0.5) - 2 * between))


def test_the_nearest_is_found_by_direction() -> None:
    found = nearest_distance(np.array([[3.0, 0.0], [1.0, 1.0]], np.float32), np.array([[1.0, 0.0]], np.float32))
    assert found == pytest.approx([0.0, np.sqrt(2 - np.sqrt(2))], abs=1e-3)


def test_copies_and_a_collapse_are_seen_in_the_figures(
    workspace: Workspace, classifier: AttributeClassifier, tmp_path: Path
) -> None:
    shutil.copytree(workspace.path, tmp_path / "w")
    with Workspace.open(tmp_path / "w") as own:
        run = own.add_run("generator", "wgan-gp", {"config": {}, "target": ""})
        train = own.images("split=train origin=real").ids
        keep_learned(run.path, train[:100])
        domain = read_domain(own, classifier, run, "", "test", Progress())
        real = measure(own.load(train[120:200], 32), classifier, domain)
        given_back = measure(own.load(train[:80], 32), classifier, domain)
        collapsed = measure(np.repeat(own.load(train[:1], 32), 60, axis=0), classifier, domain)
        with pytest.raises(RgunitError, match="has 0 real images of split val to compare with"):
            read_domain(own, classifier, run, "", "val", Progress())
    assert given_back["copies"] == 1 and given_back["nearest"] < 1e-2 and real["copies"] < 0.6
    assert collapsed["collapsed"] and collapsed["diversity"] < 1e-6 and not real["collapsed"]
    assert real["fd_attr"] < collapsed["fd_attr"] and real["kmmd"] < collapsed["kmmd"]
    told = warnings({**collapsed, "learned": False, "untrained": {"fd_attr": 10.0}})
    assert ["collapsed" in told[0], "not learned" in told[1], "near to a training image" in told[2]] == [True] * 3


@pytest.fixture
def with_drawn(tmp_path: Path, template: Path) -> Iterator[tuple[Workspace, np.ndarray]]:
    """A workspace with three images of a run r3 that drew from noise, and what r3 learned."""
    shutil.copytree(template, tmp_path / "w")
    with Workspace.open(tmp_path / "w") as workspace:
        run = workspace.add_run("generator", "wgan-gp", {"config": {}, "from": [], "target": ""})
        keep_learned(run.path, workspace.images("split=train origin=real").ids)
        blank = np.full(len(workspace.schema.names), -1, np.int8)
        rng = np.random.default_rng(0)
        pictures = rng.integers(0, 255, (3, 32, 32, 3), np.uint8)
        yield workspace, workspace.add_generated([GeneratedImage(one, -1, blank, run.id) for one in pictures])


def test_images_drawn_from_noise_may_guide_and_translations_never(with_drawn: tuple[Workspace, np.ndarray]) -> None:
    workspace, ids = with_drawn
    translations = workspace.images("origin=generated").ids
    translations = np.setdiff1d(translations, ids)
    assert len(translations) and set(not_drawn(workspace)) == set(translations)
    assert drawing_runs(workspace, np.append(ids, 1)) == ["r3"]
    test = workspace.images("split=test origin=real").ids
    for pool in ("generated", "both"):
        check_neighbours(workspace, test[:3], ids, pool=pool)
        with pytest.raises(RgunitError, match="it is a translation, or its generator learned"):
            check_neighbours(workspace, test[:1], translations[:1], pool=pool)
        with pytest.raises(RgunitError, match="split test"):
            check_neighbours(workspace, test[:1], test[1:2], pool=pool)
    with pytest.raises(RgunitError, match="only real and unlabelled images"):
        check_neighbours(workspace, test[:1], ids[:1])
    with pytest.raises(RgunitError, match="only generated images"):
        check_neighbours(workspace, test[:1], workspace.images("split=train origin=real").ids[:1], pool="generated")


def test_what_a_generator_drew_that_saw_test_images_never_guides(with_drawn: tuple[Workspace, np.ndarray]) -> None:
    workspace, ids = with_drawn
    test = workspace.images("split=test origin=real").ids
    keep_learned(workspace.run("r3").path, test[:1])
    assert set(ids) <= set(not_drawn(workspace))
    with pytest.raises(RgunitError, match="learned from images outside split train"):
        check_neighbours(workspace, test[2:3], ids[:1], pool="both")


def test_a_run_that_draws_nothing_is_not_judged(template: Path) -> None:
    with Workspace.open(template) as workspace:
        with pytest.raises(RgunitError, match="run r1 is of stage translation and draws nothing from noise"):
            evaluate_generator(workspace, run="r1", device="cpu", progress=Notes())
        with pytest.raises(RgunitError, match="has no trained generator"):
            evaluate_generator(workspace, device="cpu", progress=Notes())

"""Copying does not win, the truth does, and the table says how sure it is."""

import json

import numpy as np
import pytest
from PIL import Image

from index_store.errors import RgunitError
from retrieval.onnx import OnnxNetwork
from translation.drawings import true_translation
from translation.evaluation.evaluate import copy_arm, evaluate_translation, neighbour_arm
from translation.evaluation.protocol import Pairs, make_pairs
from translation.guides import guide_filter

USED = ("Glasses", "Hat")
CONTRACT = {"accuracy_changed", "accuracy_kept", "fd_attr", "fd_judge", "diversity", "identity", "truth", "n"}
FURTHER = {"truth_edit", "neighbour_copies", "reverse", "fid", "kid", "inception_score", "lpips"}


@pytest.fixture(scope="module")
def pairs(workspace):
    return make_pairs(workspace, workspace.schema.subset(USED))


@pytest.fixture(scope="module")
def truth(workspace):
    """True translations by drawing the same content again."""
    table = workspace.images()

    def draw(source, target):
        drawings = [table.fields["drawing"][row] for row in table.places(source)]
        faces = zip(drawings, target, strict=True)
        return np.stack([true_translation(drawing, bits, USED, 32) for drawing, bits in faces])

    return draw


@pytest.fixture(scope="module")
def top_hit(workspace):
    """The first training image whose labels are the target's."""
    table = workspace.images(guide_filter())
    labels = table.labels[:, workspace.schema.indices(USED)]

    def find(source, target, seeds):
        return np.array([table.ids[np.flatnonzero((labels == bits).all(1))[0]] for bits in np.maximum(target, 0)])

    return find


@pytest.fixture(scope="module")
def evaluation(workspace, pairs, classifier, truth, top_hit, fast, tmp_path_factory):
    arms = {
        "guided": lambda source, target, seeds: truth(source, target),
        "unguided": lambda source, target, seeds: np.full((len(source), 32, 32, 3), 128, np.uint8),  # collapsed
        "copy": copy_arm(workspace, 32),
        "neighbour": neighbour_arm(workspace, 32, top_hit),
    }
    out = tmp_path_factory.mktemp("out")
    found = evaluate_translation(
        workspace, arms=arms, pairs=pairs, classifier=classifier, config=fast, truth=truth, out=out
    )
    found.save(out)
    return found, out


def test_every_arm_has_the_keys_of_the_contract_as_json(evaluation, pairs):
    summary = json.loads(json.dumps(evaluation[0].summary, allow_nan=False))
    for arm in ("guided", "unguided", "copy", "neighbour"):
        assert set(summary[arm]) >= CONTRACT | FURTHER
        assert summary[arm]["n"] == len(pairs)
        assert summary[arm]["fd_judge"] is None and summary[arm]["identity"] is None
    assert summary["floor"]["fd_attr"] > 0 and summary["floor"]["fd_judge"] is None
    assert summary["floor"]["accuracy"] > 0.75


def test_copying_changes_nothing_and_keeps_everything(evaluation):
    copy = evaluation[0].summary["copy"]
    assert copy["accuracy_changed"] < 0.25
    assert copy["accuracy_kept"] > 0.75
    assert copy["accuracy_other"] == 1
    assert copy["diversity"] == pytest.approx(0, abs=1e-6)


def test_copying_all_of_half_a_is_as_far_from_half_b_as_the_floor(evaluation):
    summary = evaluation[0].summary
    assert summary["copy"]["fd_attr"] == pytest.approx(summary["floor"]["fd_attr"])


def test_the_true_translation_is_at_distance_0_and_wins_on_changed_bits(evaluation):
    summary = evaluation[0].summary
    assert summary["guided"]["truth"] == 0 < summary["copy"]["truth"] < summary["unguided"]["truth"]
    assert summary["guided"]["truth_edit"] == 0 < summary["unguided"]["truth_edit"]
    assert summary["guided"]["accuracy_changed"] > 0.75


def test_the_neighbour_has_the_style_but_not_the_content(evaluation):
    summary = evaluation[0].summary
    assert summary["neighbour"]["accuracy_changed"] > 0.75
    assert summary["neighbour"]["truth"] > summary["guided"]["truth"]
    assert summary["neighbour"]["accuracy_other"] < 0.9


def test_only_what_was_guided_can_copy_and_the_neighbour_itself_always_does(evaluation):
    summary = evaluation[0].summary
    assert summary["neighbour"]["neighbour_copies"] == 1
    assert [summary[arm]["neighbour_copies"] for arm in ("guided", "unguided", "copy")] == [None] * 3
    assert summary["protocol"]["copy_threshold"] > 0 and summary["protocol"]["copy_features"] == "classifier"


def test_a_classifier_taught_by_each_arm_has_the_same_steps_and_an_interval(workspace, pairs, classifier, fast):
    config = fast.model_copy(update={"reverse": True, "reverse_steps": 3, "diversity_inputs": 0})
    arms = {name: copy_arm(workspace, 32) for name in ("guided", "copy")}
    found = evaluate_translation(workspace, arms=arms, pairs=pairs, classifier=classifier, config=config).summary
    assert found["protocol"]["reverse_steps"] == 3 and 0 <= found["floor"]["reverse"] <= 1
    low, high = found["intervals"]["copy"]["reverse"]
    assert low <= found["copy"]["reverse"] <= high
    assert found["guided"]["reverse"] == pytest.approx(found["copy"]["reverse"])
    assert found["comparisons"]["guided vs copy"]["reverse"]["verdict"] == "no difference"


def test_verdicts_follow_the_interval_of_the_paired_difference(evaluation):
    compared = evaluation[0].summary["comparisons"]
    assert set(compared) == {"guided vs unguided", "guided vs copy", "unguided vs copy"}
    for measures in compared.values():
        for found in measures.values():
            low, high = found["interval"]
            assert low <= found["difference"] <= high
            assert (found["verdict"] == "no difference") == (low <= 0 <= high)
    guided = compared["guided vs unguided"]
    assert guided["truth"]["verdict"] == "better" and guided["truth"]["difference"] < 0
    assert guided["fd_attr"]["verdict"] == "better" and guided["fd_attr"]["counts"]
    assert compared["unguided vs copy"]["fd_attr"]["verdict"] == "worse"


def test_intervals_hold_their_figures(evaluation):
    summary = evaluation[0].summary
    for arm, measures in summary["intervals"].items():
        for name, (low, high) in measures.items():
            assert low <= summary[arm][name] <= high
    assert {"accuracy_changed", "fd_attr", "truth"} <= set(summary["intervals"]["guided"])


def test_every_image_is_kept_with_its_source_and_target(evaluation, workspace, pairs, truth):
    out = evaluation[1]
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * len(pairs)
    first = next(line for line in lines if line["arm"] == "guided")
    assert workspace.image_for_path(first["source"]) == pairs.source[0]
    assert list(first["target"]) == list(USED)
    assert (np.asarray(Image.open(first["path"])) == truth(pairs.source[:1], pairs.target[:1])[0]).all()
    assert (Pairs.load(out / "pairs.jsonl").source == pairs.source).all()
    assert json.loads((out / "translation.json").read_text())["guided"]["truth"] == 0


def test_seeds_make_samples_differ_and_repeat(workspace, pairs, classifier, fast):
    def noisy(source, target, seeds):
        images = workspace.load(source, 32).astype(int)
        noise = [np.random.default_rng(seed).integers(-60, 60, (32, 32, 3)) for seed in seeds]
        return np.clip(images + noise, 0, 255).astype(np.uint8)

    runs = [
        evaluate_translation(workspace, arms={"unguided": noisy}, pairs=pairs, classifier=classifier, config=config)
        for config in (fast, fast.model_copy(update={"batch": 7}))
    ]
    first, again = (run.summary["unguided"] for run in runs)
    assert first["diversity"] > 0.01
    assert first["diversity"] == pytest.approx(again["diversity"], rel=1e-4)
    assert first["fd_attr"] == pytest.approx(again["fd_attr"], rel=1e-3)


def test_a_judge_measures_identity_and_a_second_distance(workspace, pairs, classifier, fast, mean_colour_network):
    arms = {"copy": copy_arm(workspace, 32), "unguided": lambda s, t, seeds: 255 - workspace.load(s, 32)}
    found = evaluate_translation(
        workspace, arms=arms, pairs=pairs, classifier=classifier, config=fast, judge=OnnxNetwork(mean_colour_network)
    )
    copy, negative = found.summary["copy"], found.summary["unguided"]
    assert copy["identity"] == pytest.approx(0, abs=1e-6) and negative["identity"] > 0.5
    assert copy["fd_judge"] == pytest.approx(found.summary["floor"]["fd_judge"]) and negative["fd_judge"] > 0
    assert found.summary["protocol"]["judge"] == {"path": str(mean_colour_network), "crop": None}


def test_a_top_hit_from_the_test_split_ends_the_evaluation(workspace, pairs, classifier, fast):
    arms = {"neighbour": neighbour_arm(workspace, 32, lambda source, target, seeds: np.roll(source, 1))}
    with pytest.raises(RgunitError, match="outside split test"):
        evaluate_translation(workspace, arms=arms, pairs=pairs, classifier=classifier, config=fast)


def test_an_arm_that_is_guided_by_what_is_judged_ends_the_evaluation(workspace, pairs, classifier, fast, tmp_path):
    class Cheat:
        def guided(self, source, target, seeds):
            return workspace.load(source, 32), pairs.others[: len(source), None]

    with pytest.raises(RgunitError, match=r"random was guided by image \d+, which is judged itself"):
        evaluate_translation(
            workspace, arms={"random": Cheat()}, pairs=pairs, classifier=classifier, config=fast, out=tmp_path
        )
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_an_empty_index_says_to_fill_it(workspace, pairs, classifier, fast):
    arms = {"neighbour": neighbour_arm(workspace, 32, lambda source, target, seeds: np.full(len(source), -1))}
    with pytest.raises(RgunitError, match="rgunit index build"):
        evaluate_translation(workspace, arms=arms, pairs=pairs, classifier=classifier, config=fast)


def test_an_evaluation_that_fails_leaves_no_manifest(workspace, pairs, classifier, fast, tmp_path):
    def broken(source, target, seeds):
        raise RgunitError("out of luck")

    with pytest.raises(RgunitError, match="out of luck"):
        evaluate_translation(
            workspace, arms={"guided": broken}, pairs=pairs, classifier=classifier, config=fast, out=tmp_path
        )
    assert not (tmp_path / "manifest.jsonl").exists()

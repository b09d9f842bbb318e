"""The biased experiment: sets with nobody in common, numbers worked out by hand, and all of it through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.main import main
from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from translation.evaluation.config import EvaluationConfig
from translation.evaluation.experiments.bias import ARMS, BiasPlan
from translation.evaluation.experiments.biased import (
    COMBINATIONS,
    Bias,
    chosen_sets,
    drawn_sets,
    evened,
    train_judge,
)
from translation.evaluation.experiments.biasscores import Judged, summary_of


def judged(**changes: object) -> Judged:
    values: dict[str, object] = {
        "people": [f"image {i}" for i in range(8)],
        "added": [True, False] * 4,
        "at_risk": [True] * 4 + [False] * 4,
        "misclassified": [True, True, True, False] + [False] * 4,
        "drop": [0.4, 0.4, 0.4, 0.0] + [0.0] * 4,
        "changed": [True] * 8,
        "identity": None,
        "truth": None,
        "diversity": 0.2,
    }
    return Judged.model_validate(values | changes)


def test_the_numbers_are_of_sources_at_risk_and_a_gain_counts_only_where_the_wanted_changes_as_often() -> None:
    kept = judged(misclassified=[False] * 8, drop=[0.0] * 8)
    copied = judged(misclassified=[False] * 8, changed=[True] * 4 + [False] * 4)
    found = summary_of([{"copied": copied, "kept": kept, "without": judged()}], "without")
    without = found["arms"]["without"]
    assert (without["misclassified"], without["misclassified_all"], without["changed"]) == (0.75, 0.375, 1.0)
    assert without["drop"] == pytest.approx(0.3) and without["identity"] is None and without["diversity"] == 0.2
    gain, bought = found["differences"]["kept vs without"], found["differences"]["copied vs without"]
    assert gain["misclassified"]["difference"] == -0.75 and gain["counts"] and gain["verdict"] == "a gain"
    stuck = summary_of([{"kept": judged(changed=[True, False] * 4), "without": judged()}], "without")
    assert (
        stuck["arms"]["kept"]["changed_least"] == 0
        and "not learned" in stuck["differences"]["kept vs without"]["verdict"]
    )
    assert bought["changed"]["difference"] == -0.5 and not bought["counts"]
    assert bought["verdict"] == "fewer, but the wanted attribute changes less often"


def test_both_is_compared_with_each_of_its_parts_over_seeds() -> None:
    seeds = [{name: judged() for name in ARMS} for _ in range(2)]
    seeds[1]["guided"] = judged(changed=[True] * 4 + [False] * 4)
    found = summary_of(seeds, "without")
    changed = found["differences"]["guided vs without"]["changed"]
    assert changed["seeds"] == [0.0, -0.5] and changed["difference"] == -0.25
    assert {"semantic and agree vs semantic", "semantic and agree vs agree"} < set(found["differences"])
    assert found["seeds"] == 2 and found["arms"]["guided"]["spread"]["misclassified"] == [0.75, 0.75]


def test_drawn_sets_are_biased_balanced_and_have_nobody_in_common(tmp_path: Path) -> None:
    sets = drawn_sets(tmp_path, Bias("Glasses", "Beard"), size=32, per_domain=40, tested=2, taught=3)
    pairs = {name: [(row.wanted, row.protected) for row in rows] for name, rows in sets.items()}
    counts = {name: [found.count(pair) for pair in COMBINATIONS] for name, found in pairs.items()}
    assert counts == {"train": [38, 2, 2, 38], "test": [2] * 4, "judge": [3] * 4}
    people = [row.fields["drawing"].split(":")[1] for rows in sets.values() for row in rows]
    assert len(set(people)) == len(people) == 80 + 8 + 12


def test_drawn_sets_of_a_hair_colour_have_no_other_one_beside_it(tmp_path: Path) -> None:
    sets = drawn_sets(tmp_path, Bias("Black_Hair", "Beard"), size=32, per_domain=20, tested=2, taught=2)
    for row in (row for rows in sets.values() for row in rows):
        hair = [name for name in row.fields["drawing"].split(":")[2].split("+") if name.endswith("_Hair")]
        assert ("Black_Hair" in hair) == row.wanted and len(hair) <= 1
    with pytest.raises(UsageError, match=r"faces are drawn with or without Black_Hair, .*, not Smiling"):
        BiasPlan(wanted="Smiling")
    with pytest.raises(UsageError, match="no drawn face has both Black_Hair and Blond_Hair"):
        BiasPlan(wanted="Black_Hair", protected="Blond_Hair")


def test_a_workspaces_people_learn_teach_or_are_judged(workspace: Workspace) -> None:
    with pytest.raises(RgunitError, match="too few training images for a biased set"):
        chosen_sets(workspace, Bias("Glasses", "Beard"))
    sets = chosen_sets(workspace, Bias("Glasses", "Long_Hair", share=0.6))
    names = {name: {row.file.name for row in rows} for name, rows in sets.items()}
    assert not names["train"] & names["judge"] and not names["train"] & names["test"]
    assert not names["judge"] & names["test"]
    pairs = [(row.wanted, row.protected) for row in sets["train"]]
    assert pairs.count((1, 1)) > pairs.count((1, 0)) and pairs.count((0, 0)) > pairs.count((0, 1))


def test_what_is_read_is_not_what_mostly_goes_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array(COMBINATIONS, np.int8), (400, 10, 10, 400), axis=0)
    features = rng.normal(size=(len(labels), 8)).astype(np.float32) * 3 + 5
    features[:, :2] += 4 * labels  # weak traces of each, and one of both together
    features[:, 2] += 6 * labels.sum(1)
    weight, bias = evened(features, labels)
    read = features @ weight.T + bias > 0
    right = [(read == labels)[(labels == pair).all(axis=1)].mean(0) for pair in COMBINATIONS]
    plain = np.linalg.lstsq(np.c_[features, np.ones(len(labels))], 2.0 * labels - 1, rcond=None)[0]
    mostly = (np.c_[features, np.ones(len(labels))] @ plain > 0) == labels
    worst = min(float(mostly[(labels == pair).all(axis=1)].mean(0).min()) for pair in COMBINATIONS)
    assert weight.shape == (2, 8) and np.min(right) > worst + 0.2


def test_the_judge_is_kept_and_needs_every_combination(tmp_path: Path) -> None:
    bias = Bias("Glasses", "Beard")
    rows = drawn_sets(tmp_path, bias, size=32, per_domain=20, tested=1, taught=8)["judge"]
    config = EvaluationConfig(classifier_epochs=1, classifier_batch=8)
    even = train_judge(tmp_path / "even", rows, bias, 32, config)
    uneven = train_judge(tmp_path / "uneven", rows[:-3], bias, 32, config)
    images = np.stack([np.asarray(Image.open(row.file)) for row in rows])
    written = (tmp_path / "uneven").stat()
    again = train_judge(tmp_path / "uneven", rows[:-3], bias, 32, config)
    assert (tmp_path / "uneven").stat() == written, "kept, not trained again"
    assert np.array_equal(again.read(images).logits, uneven.read(images).logits)
    assert even.fingerprint != uneven.fingerprint
    with pytest.raises(RgunitError, match="no image of one combination of the two attributes: choose other"):
        train_judge(tmp_path / "none", [row for row in rows if (row.wanted, row.protected) != (1, 1)], bias, 32, config)
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UsageError, match="no arm is called 'both'"):
        BiasPlan(arms=("both",))
    with pytest.raises(UsageError, match="init takes none"):
        BiasPlan(preset="init")
    with pytest.raises(UsageError, match="are two attributes"):
        BiasPlan(wanted="Beard")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["munit", "gmm_unit", "cut"])
def test_the_table_is_made_and_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    sizes = ["--per-domain", "100", "--tested", "3", "--taught", "10", "--steps", "2", "--guided-steps", "2"]
    narrow = ["networks.width=0.0625", "networks.discriminator_width=0.0625", "extractor.steps=3"]
    narrow += ["extractor.widths=[1,2]", "extractor.network_width=0.125", "retrieval.steps=2", "retrieval.batch=4"]
    narrow += ["evaluation.classifier_epochs=1", "translation.batch=4", "guided.batch=4", "training.tensorboard=false"]
    settings = [word for one in narrow for word in ("--set", one)]
    words = ["evaluate", "bias", "--method", method, "--out", str(tmp_path / "out"), *sizes, *settings]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["table"]["arms"]) == set(ARMS) and len(found["judge"]) == 4
    assert found["table"]["arms"]["without"]["truth"] > 0 and (tmp_path / "out" / "seed-0.png").exists()
    with Workspace.open(tmp_path / "out" / "biased") as workspace:
        runs = {key.partition("/")[2]: workspace.run(one["run"]) for key, one in found["runs"].items()}
        assert len({run.steps for name, run in runs.items() if name.startswith("arm")}) == 1
        assert runs["arm semantic"].config["config"]["semantic"]["extractor"] == runs["extractor"].id
        before = len(workspace.runs())
    assert main(words) == 0
    assert "Beard kept?" in capsys.readouterr().out
    with Workspace.open(tmp_path / "out" / "biased") as workspace:
        assert len(workspace.runs()) == before
    assert np.isfinite(found["table"]["arms"]["agree"]["diversity"])

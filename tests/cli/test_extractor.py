"""`rgunit train extractor` and what refers to it, through the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command

NARROW = (
    *("--set", "extractor.steps=6", "--set", "extractor.widths=[1,2]", "--set", "extractor.network_width=0.125"),
    *("--set", "extractor.batch=8", "--set", "training.tensorboard=false"),
)
SMALL = (
    *("--set", "networks.width=0.0625", "--set", "networks.discriminator_width=0.0625", "--set", "translation.steps=1"),
    *("--set", "translation.batch=3", "--set", "training.tensorboard=false"),
)


@pytest.fixture
def faces(rgunit: Command, tmp_path: Path, drawn: Path) -> Path:
    path = tmp_path / "faces"
    rgunit("-w", path, "add", drawn / "labelled", "--attributes", drawn / "labelled" / "labels.csv")
    return path


def test_the_curve_is_shown_and_the_run_is_held_by_a_training(rgunit: Command, faces: Path) -> None:
    answer = rgunit("-w", faces, "--json", "train", "extractor", "--protect", "Beard", "--preset", "munit", *NARROW)
    assert answer.status == 0 and answer.json["protect"] == "Beard" and answer.json["steps"] == 6
    assert [point["width"] for point in answer.json["curve"]] == [1, 2] and answer.json["width"] in (1, 2)
    again = rgunit("-w", faces, "train", "extractor", "--protect", "Beard", "--preset", "munit", *NARROW, "--resume")
    assert again.status == 0 and "the narrowest that keeps it" in again.out and "Accuracy by width" in again.out
    words = ("train", "translation", "--preset", "munit", *SMALL, "--attributes-used", "Glasses")
    trained = rgunit(
        *("-w", faces, "--json", *words, "--set", "semantic.weight=2", "--set", "sampling.hops=2"),
        *("--set", "sampling.informative=true", "--set", f"sampling.embedding={answer.json['run']}"),
    )
    assert trained.status == 1 and "is of stage extractor, which embeds no pictures" in trained.error
    trained = rgunit("-w", faces, "--json", *words, "--set", "semantic.weight=2", "--set", "sampling.hops=2")
    assert trained.status == 0 and trained.json["metrics"]["generator/semantic"] > 0


def test_wrong_usage_is_told_with_the_remedy(rgunit: Command, faces: Path) -> None:
    missing = rgunit("-w", faces, "train", "extractor", "--preset", "munit")
    assert missing.status == 2 and missing.error == "`train extractor` needs the attribute to keep: --protect NAME"
    misplaced = rgunit("-w", faces, "train", "translation", "--protect", "Beard")
    assert misplaced.status == 2 and "--protect belongs to `train extractor`" in misplaced.error
    unknown = rgunit("-w", faces, "train", "extractor", "--protect", "Bread", "--preset", "munit")
    assert unknown.status != 0 and "did you mean Beard?" in unknown.error
    nothing = rgunit("-w", faces, "train", "translation", "--preset", "munit", *SMALL, "--set", "semantic.weight=1")
    assert nothing.status == 1 and "train extractor --protect NAME` first" in nothing.error


def test_the_plan_of_the_biased_experiment_is_shown_and_nothing_is_done(rgunit: Command, tmp_path: Path) -> None:
    answer = rgunit("--json", "evaluate", "bias", "--seeds", "0,1,2", "--translation-minutes", "8", "--minutes", "3")
    assert answer.status == 0 and answer.json == {"trainings": 30, "minutes": 96.0}
    strange = rgunit("evaluate", "bias", "--arms", "none")
    assert strange.status == 2 and "no arm is called 'none'" in strange.error

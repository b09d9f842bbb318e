"""The same translations read by several classifiers."""

from __future__ import annotations

import json

import pytest

from cli.main import main
from index_store.workspace import Workspace
from tests.translation.small import tiny
from translation.evaluation.classifier import train_classifier
from translation.stages import train_guided, train_translation


def test_several_classifiers_read_the_same_translations(staged: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    path = staged.path
    small = ("evaluation.pairs=6", "evaluation.bootstrap=100", "evaluation.classifier_epochs=0.1")
    train_guided(staged, tiny(*small), neighbours="none", device="cpu")
    train_guided(staged, tiny(*small), device="cpu")
    config = tiny(*small, "evaluation.classifier_batch=8").evaluation
    for seed in (0, 1):
        train_classifier(staged, 32, config, seed=seed)
    files = sorted((path / "cache").glob("classifier-*.safetensors"))
    train_translation(staged, tiny("translation.steps=1"), device="cpu")
    other = train_guided(staged, tiny("guided.steps=1"), neighbours="none", device="cpu").run.id
    staged.close()
    words = ["-w", str(path), "--device", "cpu", "evaluate", "judges", *map(str, files)]
    bare = ["-w", str(path), *words[4:]]  # as most call it: the device is found
    assert main([*bare, "--arms", "unguided=r3,guided=r4"]) == 0
    assert capsys.readouterr().out.count("guided vs unguided: changed") == 2
    assert main([*words, "--arms", "unguided=r3,guided=r4", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["classifiers"]
    figures = [
        [way[arm]["fd_attr"] for arm in ("unguided", "guided", "copy")] for way in (first["there"], first["back"])
    ]
    both = [first["both ways"][arm]["fd_attr"] for arm in ("unguided", "guided", "copy")]
    assert both == pytest.approx([sum(pair) / 2 for pair in zip(*figures, strict=True)])
    assert first["both ways"]["copy"]["fd_attr"] != second["both ways"]["copy"]["fd_attr"]
    capsys.readouterr()
    for arms, told in (
        (f"unguided={other},guided=r4", "the arms come from several stage-1 runs (r1, r5)"),
        ("unguided=r4", "run r4 is not the arm unguided"),
        ("guided=r1", "run r1 is no stage-3 run"),
        ("guidded=r4", "--arms takes ARM=RUN"),
    ):
        assert main([*words, "--arms", arms]) == 2
        assert told in capsys.readouterr().err

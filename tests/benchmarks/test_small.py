"""Small benchmarks run end to end on tiny networks: what they print can be trusted to be of what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from index_store.errors import UsageError
from index_store.workspace import Workspace
from tests.scripts import load
from tests.translation.small import TINY, tiny
from translation.evaluation.classifier import train_classifier
from translation.stages import train_guided, train_translation


def test_the_cost_of_guidance_is_measured_in_copies(
    staged: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, path = load("benchmarks/guided_loop.py"), staged.path
    monkeypatch.setattr(script, "FIRST", 2)
    staged.close()
    overrides = [word for override in (*TINY, "training.log_every=1") for word in ("--set", override)]
    script.main([str(path), "--preset", "demo", "--steps", "4", "--device", "cpu", *overrides])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[0] for row in rows] == list(script.TURNS) == ["none", "retrieved", "random", "none"]
    cells = [[float(cell) for cell in row.split()[1:]] for row in rows]
    assert all(seconds > 0 for row in cells for seconds in row[:2])
    logged = [{"step": step, "images_per_second": pace} for step, pace in ((1, 4), (2, 2), (3, 8), (4, 8), (5, 1))]
    assert script.seconds_a_step(logged, 8) == {"first": 3.0, "then": 1.0}, "medians of both parts, by the step"
    with Workspace.open(path) as again:
        assert [run.id for run in again.runs()] == ["r1", "r2"]
    with pytest.raises(SystemExit):
        script.main([str(path), "--steps", "2"])


def test_several_classifiers_read_the_same_translations(
    staged: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, path = load("benchmarks/judges.py"), staged.path
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
    words = ["--classifiers", ",".join(map(str, files)), "--device", "cpu", "--json", str(tmp_path / "told.json")]
    script.main([str(path), "--arms", "unguided=r3,guided=r4", *words])
    assert capsys.readouterr().out.count("guided vs unguided fd_attr") == 2
    first, second = json.loads((tmp_path / "told.json").read_text())
    figures = [
        [way[arm]["fd_attr"] for arm in ("unguided", "guided", "copy")] for way in (first["there"], first["back"])
    ]
    both = [first["both ways"][arm]["fd_attr"] for arm in ("unguided", "guided", "copy")]
    assert both == pytest.approx([sum(pair) / 2 for pair in zip(*figures, strict=True)])
    assert first["both ways"]["copy"]["fd_attr"] != second["both ways"]["copy"]["fd_attr"]
    with pytest.raises(UsageError, match=r"--arms come from several stages 1 \(r1, r5\)"):
        script.main([str(path), "--arms", f"unguided={other},guided=r4", *words])

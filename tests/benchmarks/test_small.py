"""Small benchmarks run end to end on tiny networks: what they print can be trusted to be of what they say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from index_store.workspace import Workspace
from tests.scripts import load
from tests.translation.small import TINY


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


def test_the_step_of_any_method_is_timed_beside_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load("benchmarks/train_step.py")
    tiny = [word for setting in ("networks.width=0.05", "data.size=32") for word in ("--set", setting)]
    chosen = ["--presets", "demo,cut", "--together", "--methods", "stage 1", "--steps", "1", "--device", "cpu"]
    monkeypatch.setattr(script, "peak_mib", lambda *_: 1.0)
    monkeypatch.setattr(script, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr("sys.argv", ["train_step.py", *chosen, *tiny])
    script.main()
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["demo", "cut"]
    assert float(rows[0].split()[-2]) == 1.0, "the first row is what others are compared with"


def test_parameters_grow_in_a_line_with_the_domains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [word for setting in ("networks.width=0.05", "translation.batch=1") for word in ("--set", setting)]
    monkeypatch.setattr("sys.argv", ["domains.py", "--domains", "3,4", "--steps", "1", "--device", "cpu", *tiny])
    script = load("benchmarks/domains.py")
    script.main()
    three, four = (row.split() for row in capsys.readouterr().out.splitlines()[1:])
    assert three[3:5] == ["2", "3"] and four[3:5] == ["3", "6"]
    assert float(four[1][:-1]) == pytest.approx(4 / 3 * float(three[1][:-1]), abs=0.02)
    with pytest.raises(SystemExit):
        monkeypatch.setattr("sys.argv", ["domains.py", "--domains", "1"])
        script.main()

"""Trainings of `prove_guidance.py` beside each other: the same as one after the other, stopped and gone on with."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from tests.places import ROOT
from tests.scripts import load
from tests.translation.small import TINY, USED, filled, tiny
from translation.evaluation.arms import open_arms
from translation.stages import fill_index, train_guided

WORDS = ["--preset", "demo", "--device", "cpu", "--attributes-used", ",".join(USED), "--rows", "1"]
WORDS += ["--arms", "guided,unguided", *(word for setting in TINY for word in ("--set", setting))]


@pytest.fixture(scope="module")
def prove() -> Any:
    return load("benchmarks/prove_guidance.py")


def test_trainings_beside_each_other_give_the_runs_of_one_after_the_other(
    prove: Any, drawn: Path, tmp_path: Path
) -> None:
    found = {}
    for jobs in (1, 2):
        faces, out = tmp_path / f"faces-{jobs}", tmp_path / f"out-{jobs}"
        filled(faces, drawn)
        words = ["--out", str(out), "--workspace", str(faces), *WORDS, "--steps", "2", "--until", "arms"]
        prove.main([*words, "--jobs", str(jobs)])
        assert sorted(file.name for file in out.iterdir()) == ["ledger.json"], "copies are gone, nothing is judged"
        done = json.loads((out / "ledger.json").read_text())["done"]
        with Workspace.open(faces) as workspace:
            runs = {key: workspace.run(entry["run"]) for key, entry in done.items()}
        assert {run.status for run in runs.values()} == {"done"}
        first, second = runs["workspace/0/translation"].id, runs["workspace/0/retrieval"].id
        assert runs["workspace/0/retrieval"].config["translation_run"] == first
        assert runs["workspace/0/guided"].config["retrieval_run"] == second
        assert {runs[f"workspace/0/{arm}"].config["translation_run"] for arm in ("guided", "unguided")} == {first}
        found[jobs] = {key: load_file(run.path / CHECKPOINT) for key, run in runs.items()}
        before = (out / "ledger.json").stat().st_mtime_ns
        prove.main([*words, "--jobs", str(jobs)])
        assert (out / "ledger.json").stat().st_mtime_ns == before, "a second start has nothing to do"
    assert found[1].keys() == found[2].keys()
    for key, tensors in found[1].items():
        assert all((tensors[name] == other).all() for name, other in found[2][key].items()), key


def test_ctrl_c_reaches_the_trainings_once_and_each_keeps_a_checkpoint(staged: Workspace, tmp_path: Path) -> None:
    staged.close()
    words = ["--out", str(tmp_path / "out"), "--workspace", str(staged.path), "--start", "0=r1,r2", *WORDS]
    words += ["--steps", "100000", "--jobs", "2", "--until", "arms"]
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "prove_guidance.py"), *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    place = tmp_path / "out" / "beside" / "workspace" / "0"
    logs = [place / arm / "workspace" / "runs" / "r3-guided" / "metrics.jsonl" for arm in ("guided", "unguided")]
    deadline = time.monotonic() + 120
    while not all(log.exists() for log in logs) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1 and said.endswith("stopped: start it again with the same options to go on\n"), said
    for log in logs:
        with Workspace.open(log.parents[2]) as copy:
            assert copy.run("r3").status == "stopped" and (log.parent / CHECKPOINT).exists()
    with Workspace.open(staged.path) as workspace:
        assert [run.id for run in workspace.runs()] == ["r1", "r2"], "only what is finished comes home"


def test_jobs_go_by_priority_and_may_bring_others(prove: Any) -> None:
    beside, order = sys.modules["proof.beside"], []

    def work(name: str, *brings: Any) -> Any:
        def act() -> list[Any]:
            order.append(name)
            return list(brings)

        return act

    late = beside.Job((2,), work("late"))
    beside.work_off([late, beside.Job((1,), work("first", beside.Job((1, 5), work("brought"))))], 1, lambda: None)
    assert order == ["first", "brought", "late"]


def test_after_a_failure_nothing_else_is_begun_and_what_runs_may_end(prove: Any) -> None:
    beside, done, failed = sys.modules["proof.beside"], [], threading.Event()

    def fail() -> list[Any]:
        failed.set()
        raise RgunitError("it failed")

    def slow() -> list[Any]:
        failed.wait(10)
        done.append("slow")
        return []

    jobs = [beside.Job((0,), slow), beside.Job((1,), fail), beside.Job((2,), lambda: done.append("never"))]
    with pytest.raises(RgunitError, match="it failed"):
        beside.work_off(jobs, 2, lambda: None)
    assert done == ["slow"]


def test_a_training_that_fails_is_told_by_its_last_line(prove: Any, tmp_path: Path) -> None:
    children = sys.modules["proof.beside"].Children(2)
    with pytest.raises(RgunitError, match=r"^no such run \(.*log\.txt\)$"):
        children.run(["-c", "import sys; print('begun'); sys.exit('error: no such run')"], tmp_path / "log.txt")


def test_after_ctrl_c_no_training_is_begun(prove: Any, tmp_path: Path) -> None:
    children = sys.modules["proof.beside"].Children(2)
    children.interrupt()
    with pytest.raises(KeyboardInterrupt):
        children.run(["-c", f"open({str(tmp_path / 'begun')!r}, 'w')"], tmp_path / "log.txt")
    assert not (tmp_path / "begun").exists()


def test_jobs_want_a_number_of_steps(prove: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in ((["--jobs", "2"], "together with --steps"), (["--jobs", "0"], "--jobs takes 1")):
        with pytest.raises(SystemExit) as ended:
            prove.main(words)
        assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_slim_workspace_translates_the_same_and_trains_nothing(prove: Any, staged: Workspace, tmp_path: Path) -> None:
    slim = importlib.import_module("proof.slim").slim_workspace
    config = tiny("guided.guidance=patches", "guided.neighbour_style=0.5")
    run = train_guided(staged, config, device="cpu").run
    size = sum(file.stat().st_size for file in staged.path.rglob(CHECKPOINT))
    slim(staged.path, tmp_path / "slim")
    assert sum(file.stat().st_size for file in (tmp_path / "slim").rglob(CHECKPOINT)) < size / 2
    with Workspace.open(tmp_path / "slim") as carried:
        with pytest.raises(RgunitError, match="run `rgunit index build --run r2`"):
            train_guided(carried, config, device="cpu")
        fill_index(carried, config, device="cpu")
        ids = carried.images("split=test").ids[:4]
        ours, theirs = (open_arms(each, run.id, "cpu").arms["guided"] for each in (staged, carried))
        target = staged.images(ids=ids).labels[::-1, staged.schema.indices(ours.translator.schema.names)].copy()
        (ours_made, found), (made, again) = (arm.guided(ids, target, ids) for arm in (ours, theirs))
        assert (found == again).mean() > 0.9
        alike = (found == again).all(axis=1)
        assert abs(ours_made.astype(int) - made.astype(int))[alike].max() <= 3, "half precision"
        with pytest.raises(RgunitError, match="discriminator"):
            train_guided(carried, config, device="cpu")
    with pytest.raises(FileExistsError, match="choose another folder"):
        slim(staged.path, tmp_path / "slim")

"""Trainings beside each other: the same as one after the other, and ended with their program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from tests.processes import children_of, is_alive, python, wait_for
from tests.translation.small import TINY, USED, filled, tiny
from translation.evaluation.arms import open_arms
from translation.evaluation.experiments.guidance import run_guidance
from translation.evaluation.experiments.plan import Plan
from translation.evaluation.experiments.slim import slim_workspace
from translation.indexing import fill_index
from translation.stages import train_guided

STARTER = """
import subprocess, sys
from index_store.lifetimes import child_environment
subprocess.run([sys.executable, *sys.argv[1:]], env=child_environment())
"""
RUN = """
import sys
from translation.evaluation.experiments.guidance import run_guidance
from translation.evaluation.experiments.plan import Plan
run_guidance(Plan.model_validate_json(sys.argv[1]))
"""


def plan(out: Path, workspace: Path, **choices: Any) -> Plan:
    """Row 1 without the random arm on tiny networks, up to the arms."""
    given = {"preset": "demo", "device": "cpu", "settings": tuple(TINY), "attributes_used": USED, "rows": (1,)}
    given |= {"arms": ("guided", "unguided"), "until": "arms", "steps": 2}
    return Plan(out=out, workspace=workspace, **(given | choices))


@pytest.mark.slow
def test_trainings_beside_each_other_give_the_runs_of_one_after_the_other(drawn: Path, tmp_path: Path) -> None:
    found = {}
    for jobs in (1, 2):
        faces, out = tmp_path / f"faces-{jobs}", tmp_path / f"out-{jobs}"
        filled(faces, drawn)
        run_guidance(plan(out, faces, jobs=jobs))
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
        run_guidance(plan(out, faces, jobs=jobs))
        assert (out / "ledger.json").stat().st_mtime_ns == before, "a second start has nothing to do"
    assert found[1].keys() == found[2].keys()
    for key, tensors in found[1].items():
        assert all((tensors[name] == other).all() for name, other in found[2][key].items()), key


def test_trainings_end_within_seconds_and_keep_a_checkpoint_when_what_started_them_is_killed(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.close()
    endless = (*TINY, "translation.steps=100000")
    asked = plan(tmp_path / "out", workspace.path, steps=100_000, jobs=2, settings=endless)
    copy = tmp_path / "out" / "beside" / "workspace" / "0" / "base" / "workspace"
    run = copy / "runs" / "r1-translation"
    with python("-c", STARTER, "-c", RUN, asked.model_dump_json()) as starter:
        wait_for(lambda: (run / "metrics.jsonl").exists() or starter.poll() is not None, 120)
        (program,) = children_of(starter.pid)
        (training,) = children_of(program)
    wait_for(lambda: not is_alive(program) and not is_alive(training))
    with Workspace.open(copy) as stopped:
        assert stopped.run("r1").status == "stopped" and (run / CHECKPOINT).exists()
    with Workspace.open(workspace.path) as home:
        assert not home.runs(), "only what is finished comes home"


def test_a_slim_workspace_translates_the_same_and_trains_nothing(staged: Workspace, tmp_path: Path) -> None:
    config = tiny("guided.guidance=patches", "guided.neighbour_style=0.5")
    run = train_guided(staged, config, device="cpu").run
    size = sum(file.stat().st_size for file in staged.path.rglob(CHECKPOINT))
    slim_workspace(staged.path, tmp_path / "slim")
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
        with pytest.raises(RgunitError, match="lacks what training needs"):
            train_guided(carried, config, device="cpu")
    with pytest.raises(UsageError, match="choose another folder"):
        slim_workspace(staged.path, tmp_path / "slim")

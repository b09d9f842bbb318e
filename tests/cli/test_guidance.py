"""`rgunit evaluate guidance`: the plan that it shows, and what it refuses before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def test_without_out_it_shows_the_plan_and_its_hours(rgunit: Command) -> None:
    shown = rgunit("evaluate", "guidance")
    assert shown.status == 0
    assert (
        "Table 4: number of neighbours" in shown.out and "7.7 hours at most" in shown.out and "--out DIR" in shown.out
    )
    told = json.loads(rgunit("--seed", 3, "evaluate", "guidance", "--rows", "2,1", "--steps", 600, "--json").out)
    assert [row["row"] for row in told["rows"]] == [2, 1] and told["steps"] == 600
    assert told["hours"] == pytest.approx(2 * 48 / 60), "stages 1 and 2: how long 600 steps take is not known"
    assert "and 600 steps of each arm" in rgunit("evaluate", "guidance", "--steps", 600).out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rows", "one"], "--rows takes numbers such as 0,1,2, not 'one'"),
        (["--rows", "7"], "--rows takes some of 1,2,3,4,5"),
        (["--seeds", "0,-1"], "--seeds takes numbers such as 0,1,2, not '0,-1'"),
        (["--start", "r1"], "--start takes SEED=RUN or SEED=RUN,RUN (stages 1 and 2), not 'r1'"),
        (["--start", "0=r1,r2,r3"], "--start takes SEED=RUN or SEED=RUN,RUN"),
        (["--use", "neighbours"], "--use takes KEY=VALUE,KEY=VALUE, not 'neighbours'"),
        (["--use", "neighbours=many"], "--use takes KEY=VALUE,KEY=VALUE, not 'neighbours=many'"),
        (["--arms", "guidded"], "no arm is called 'guidded'"),
        (["--jobs", "2"], "--jobs needs --steps"),
        (["--jobs", "0"], "--jobs"),
        (["--preset", "celeba-46"], "unknown preset 'celeba-46'"),
        (["--set", "guided.step=3"], "guided.step"),
        (["--judge-crop", "0,0,8,8@16"], "--judge-crop needs --judge FILE.onnx"),
        (["--carry", "small"], "--carry copies a workspace whose arms are trained: add --until arms"),
    ],
)
def test_what_cannot_be_meant_is_refused(rgunit: Command, words: list[str], told: str) -> None:
    done = rgunit("evaluate", "guidance", *words)
    assert done.status == 2 and told in done.err and done.err.count("\n") == 1


def test_a_workspace_that_is_not_there_leaves_nothing(rgunit: Command, tmp_path: Path) -> None:
    done = rgunit("-w", tmp_path / "none", "evaluate", "guidance", "--rows", "1", "--out", tmp_path / "out")
    assert done.status == 1 and "no workspace at" in done.err and not (tmp_path / "out").exists()

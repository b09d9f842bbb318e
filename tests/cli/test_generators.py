"""A generator from the first command to images in the workspace, their figures, and the experiment of four rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Command

SMALL = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.noise=8", "miner.layers=2"),
    *("generator.batch=4", "generator.steps=3", "miner.batch=4", "miner.steps=3", "training.tensorboard=false"),
    *("training.log_every=1", "training.sample_every=1000", "evaluation.classifier_minutes=0.01"),
)
SET = [word for setting in SMALL for word in ("--set", setting)]


def test_a_generator_is_trained_mined_draws_and_is_judged(rgunit: Command, labelled: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(labelled, workspace)
    source = rgunit("--json", "-w", workspace, "train", "generator", *SET, "--target", "-Glasses")
    assert source.status == 0 and source.json["steps"] == 3 and source.json["run"] == "r1", source.err
    assert "preset wgan-gp, chosen by the size of the images" in source.err
    assert list((workspace / "runs" / "r1-generator" / "samples").glob("*.png"))
    started = rgunit("-w", workspace, "train", "generator", "--from", "r1", "--transfer", "discriminator")
    assert started.status == 0 and "run r2 (generator): 3 steps" in started.out, "by the settings of the newest run"
    mined = rgunit("--json", "-w", workspace, "train", "miner", "--from", "r1", "--from", "r2", "--target", "+Glasses")
    assert mined.status == 0 and {"selector_0", "selector_1", "diversity"} <= mined.json["metrics"].keys()
    made = rgunit("--json", "-w", workspace, "generate", "r3", "-n", "5")
    assert made.json == {"generated": 5, "vectors": 0}
    assert rgunit("--json", "-w", workspace, "info").json["by_origin"] == {"real": 80, "generated": 5}
    judged = rgunit("--json", "-w", workspace, "evaluate", "generator", "-n", "40")
    assert judged.status == 0 and judged.json["run"] == "r3" and judged.json["n"] == 40
    assert len(judged.json["selector"]) == 2 and judged.json["floor"]["n"] > 1
    assert "has not learned" in judged.err and judged.json["learned"] is False
    translates = rgunit("-w", workspace, "train", "translation", "--method", "wgan_gp", "--preset", "demo")
    assert translates.status == 1 and "has no stage translation" in translates.error


@pytest.mark.slow
def test_the_four_rows_are_trained_once_and_the_same_command_goes_on(rgunit: Command, tmp_path: Path) -> None:
    words = ("--json", "evaluate", "transfer", "--drawn-images", "120", "--images", "8", "-n", "40", *SET)
    words += ("--source-steps", "3", "--steps", "4", "--out", tmp_path / "few")
    sources = (
        "--source",
        "+Glasses",
        "--source",
        "-Glasses",
        "--target",
        "+Hat",
        "--target",
        "-Hat",
        "--mix",
        "0.3,0.7",
    )
    first = rgunit(*words, *sources, "--rows", "scratch,miner")
    assert first.status == 0 and len(first.json["runs"]) == 4, first.err
    every = rgunit(*words, *sources)
    assert every.status == 0 and len(every.json["runs"]) == 7, every.err
    assert every.json["runs"].items() >= first.json["runs"].items()
    rows = every.json["seeds"][0]["rows"]
    assert list(every.json["over_seeds"]) == list(rows) and set(rows) == {
        *("scratch", "miner", "transfer from +Glasses", "transfer from -Glasses", "miner and fine-tuning"),
    }
    assert all(row["floor"]["learned_from"] == 8 for row in rows.values())
    assert len(rows["miner"]["selector"]) == 2 and every.json["over_seeds"]["scratch"]["fd_attr"]["mean"] > 0
    assert (tmp_path / "few" / "seed-0 miner.png").is_file() and (tmp_path / "few" / "seed-0.json").is_file()
    assert "made with other settings (rate)" in rgunit(*words, *sources, "--rate", "0.5").error
    drawn = tmp_path / "few" / "drawn"
    shown = rgunit("-w", drawn, "evaluate", "generator", "-n", "40", "--run", "r1", "--target", "-Glasses")
    assert shown.status == 0 and "FD-attr of an untrained one" in shown.out
    assert "not told apart by FD-attr" in rgunit(*words[1:], *sources).out
    told = rgunit("--json", "evaluate", "transfer", "--seeds", "0,1,2").json
    assert told == {"seeds": 3, "sources": 1, "rows": 4, "minutes": 3 * (15 + 4 * 4)}

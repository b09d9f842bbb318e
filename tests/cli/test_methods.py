"""`rgunit methods`, and a method of one direction from the first command to its evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.cli.conftest import Command

SMALL = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.blocks=2", "networks.projection=8"),
    *("translation.batch=3", "translation.steps=3", "translation.patches=16", "training.tensorboard=false"),
    *("evaluation.classifier_epochs=1", "evaluation.diversity_inputs=2", "evaluation.bootstrap=100"),
)


def test_methods_are_listed_with_their_presets(rgunit: Command) -> None:
    rows = {row["name"]: row for row in rgunit("--json", "methods").json["methods"]}
    assert rows["gmm_unit"]["guidance"] == ["convolution", "attention", "patches"]
    assert rows["cut"]["presets"] == ["cut", "fastcut"] and rows["cut"]["needs"] == ["two domains"]
    assert "gmm_unit: GMM-UNIT" in rgunit("methods").out


def test_cut_is_trained_translates_and_is_judged_in_its_one_direction(
    rgunit: Command, labelled: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(labelled, workspace)
    settings = [word for setting in SMALL for word in ("--set", setting)]
    train = ("--json", "-w", workspace, "train", "translation", "--preset", "demo", "--method", "cut", *settings)
    assert "did you mean cut" in rgunit(*train[:-2], "--method", "cutt").error
    trained = rgunit(*train, "--source", "-Glasses", "--target", "+Glasses", "--attributes-used", "Glasses")
    assert trained.status == 0 and trained.json["steps"] == 3
    picture = sorted((workspace / "..").resolve().rglob("*.png"))
    faces = [path for path in picture if "samples" in str(path)] or picture
    made = rgunit("--json", "-w", workspace, "translate", faces[0], "--out", tmp_path / "out")
    assert made.status == 0 and Path(made.json["outputs"][0]["path"]).is_file()
    assert "nothing else" in rgunit("-w", workspace, "translate", faces[0], "--to", "-Glasses").error
    judged = rgunit("--json", "-w", workspace, "evaluate", "translation")
    assert judged.status == 0 and judged.json["stage1"]["n"] == judged.json["copy"]["n"] > 1
    assert judged.json["floor"]["fd_attr"] is None, "two domains have no floor in common"
    assert rgunit("-w", workspace, "evaluate", "translation").status == 0
    for words, said in {
        ("run", "--preset", "cut"): "cut has none",
        ("train", "retrieval"): "has no style",
        ("train", "guided"): "has no style",
        ("train", "retrieval", "--source", "+Hat"): "belong to",
        ("train", "translation", "--preset", "demo", "--source", "+Hat", "--target", "-Hat"): "learns all",
    }.items():
        answer = rgunit("-w", workspace, *words)
        assert answer.status in (1, 2) and said in answer.error

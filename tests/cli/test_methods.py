"""`rgunit methods`, and a method of one direction from the first command to its evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from tests.cli.conftest import Command

SMALL = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.blocks=2", "networks.projection=8"),
    *("translation.batch=3", "translation.steps=3", "translation.patches=16", "training.tensorboard=false"),
    *("evaluation.classifier_epochs=1", "evaluation.diversity_inputs=2", "evaluation.bootstrap=100"),
)


RUN = (
    *("retrieval.steps=4", "retrieval.batch=8", "index.generated=3", "guided.steps=3", "guided.batch=3"),
    *("guided.patches=16", "guided.neighbours=2"),
)


def test_two_folders_go_through_every_stage_to_a_report(rgunit: Command, faces: Path, tmp_path: Path) -> None:
    """`trainA trainB testA testB` without any label file; neighbours are of the target domain."""
    for number, picture in enumerate(sorted((faces / "labelled").glob("*.png"))):
        folder = tmp_path / "two" / (("test" if number % 4 == 3 else "train") + "AB"[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder)
    for number, picture in enumerate(sorted((faces / "unlabelled").glob("*.png"))[:8]):  # test A has some as well
        folder = tmp_path / "two" / f"test{'AB'[number % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / f"more-{picture.name}")
    workspace = tmp_path / "workspace"
    assert rgunit("-w", workspace, "add", tmp_path / "two").status == 0
    settings = [word for setting in (*SMALL, *RUN, "data.size=32") for word in ("--set", setting)]
    done = rgunit("--json", "-w", workspace, "run", "--preset", "cut", *settings)
    assert done.status == 0, done.err
    assert [stage["name"] for stage in done.json["stages"]] == [
        *("translation", "retrieval", "index", "guided", "evaluate")
    ]
    assert Path(done.json["report"]).is_file()
    arms = done.json["translation"]
    assert all(arms[arm]["n"] > 1 for arm in ("stage1", "guided", "random", "unguided", "copy", "neighbour"))
    assert arms["neighbour"]["accuracy_changed"] is not None
    picture = next((tmp_path / "two" / "testA").iterdir())
    (made,) = rgunit("--json", "-w", workspace, "translate", picture, "--out", tmp_path / "out").json["outputs"]
    assert made["target"] == {"A": 0, "B": 1}
    assert made["neighbours"] and all("trainB" in near["path"] for near in made["neighbours"])
    Image.open(picture).resize((50, 37)).save(tmp_path / "wide.png")
    (wide,) = rgunit("--json", "-w", workspace, "translate", tmp_path / "wide.png", "--out", tmp_path).json["outputs"]
    assert Image.open(wide["path"]).size == (50, 37) and wide["neighbours"], "guided, and in its own size"
    folder = tmp_path / "in"
    for place in ("a/one.png", "b/one.png", "one.png", "one.jpg"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / place)
    (folder / "notes.txt").write_text("no picture")
    for _ in range(2):  # the second call does not translate what the first one wrote
        answer = rgunit("--json", "-w", workspace, "translate", folder, "--out", folder / "out").json
        outputs = sorted(Path(one["path"]).relative_to(folder / "out") for one in answer["outputs"])
        assert [str(one) for one in outputs] == ["a/one-0.png", "b/one-0.png", "one-0.png", "one-2-0.png"]
        assert [Path(one["path"]).name for one in answer["rejected"]] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert "holds no image" in rgunit("-w", workspace, "translate", tmp_path / "empty").error
    found = rgunit("--json", "-w", workspace, "similar", picture, "--where", "+B", "-k", "3").json["neighbours"]
    assert len(found) == 3 and all(one["attributes"]["B"] == 1 for one in found)


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
    Image.open(faces[0]).convert("L").resize((130, 101)).save(tmp_path / "grey.png")
    words = ("translate", tmp_path / "grey.png", "--max-pixels", "9216", "--out", tmp_path / "out")
    assert rgunit("-w", workspace, *words).status == 0
    assert (made := Image.open(tmp_path / "out" / "grey-0.png")).size == (130, 101) and made.mode == "RGB"
    small = rgunit(
        "--json", "-w", workspace, "translate", tmp_path / "grey.png", "--size", "16", "--out", tmp_path / "s"
    )
    assert Image.open(small.json["outputs"][0]["path"]).size == (21, 16)
    assert "--max-pixels must be at least 9216" in rgunit("-w", workspace, *words[:2], "--max-pixels", "99").error
    judged = rgunit("--json", "-w", workspace, "evaluate", "translation")
    assert judged.status == 0 and judged.json["stage1"]["n"] == judged.json["copy"]["n"] > 1
    assert judged.json["floor"]["fd_attr"] is None, "two domains have no floor in common"
    assert rgunit("-w", workspace, "evaluate", "translation").status == 0
    assert "there is no text field" in rgunit("-w", workspace, "evaluate", "translation", "--relevance", "class").error
    for words, said in {
        ("train", "guided", "--set", "guided.guidance=convolution"): "not for cut",
        ("train", "guided", "--set", "guided.neighbour_style=1"): "has no meaning for cut",
        ("query", faces[0], "--to", "+Glasses"): "train retrieval` first",
        ("train", "retrieval", "--source", "+Hat"): "belong to",
        ("train", "translation", "--preset", "demo", "--source", "+Hat", "--target", "-Hat"): "learns all",
    }.items():
        answer = rgunit("-w", workspace, *words)
        assert answer.status in (1, 2) and said in answer.error


def test_a_folder_a_domain_is_joined_by_way_of_an_anchor_up_to_the_report(
    rgunit: Command, faces: Path, tmp_path: Path
) -> None:
    for number, picture in enumerate(sorted((faces / "labelled").glob("*.png"))[:48]):
        folder = tmp_path / "three" / ("test" if number % 2 else "train") / "ABC"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder)
    workspace = tmp_path / "workspace"
    assert rgunit("-w", workspace, "add", tmp_path / "three").status == 0
    settings = [
        *("networks.width=0.0625", "networks.discriminator_width=0.0625", "translation.batch=2", "translation.steps=2"),
        *("training.tensorboard=false", "evaluation.classifier_epochs=1", "evaluation.diversity_inputs=2"),
        *("evaluation.bootstrap=100", "translation.anchor=B"),
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    done = rgunit("--json", "-w", workspace, "run", "--preset", "mix-match", *words)
    assert done.status == 0, done.err
    assert Path(done.json["report"]).is_file() and done.json["translation"]["cascade"]["n"] > 1
    assert [stage["name"] for stage in done.json["stages"] if stage.get("skipped")] == ["retrieval", "index", "guided"]
    Image.new("RGB", (40, 40), "red").save(tmp_path / "foreign.png")
    asked = ("-w", workspace, "translate", tmp_path / "foreign.png", "--to", "+C", "--out", tmp_path / "out")
    refused = rgunit(*asked)
    assert refused.status == 1 and "--source, one of A, B, C" in refused.err
    (made,) = rgunit("--json", *asked, "--source", "A").json["outputs"]
    assert made["target"] == {"A": 0, "B": 0, "C": 1}
    refused = rgunit("-w", workspace, "run", "--preset", "zero-pair")
    assert refused.status == 2 or "evaluate modalities" in refused.err

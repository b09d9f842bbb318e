"""The whole job on 80 tiny faces: answers have the contract's keys, a second run changes nothing."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.main import main
from cli.progress import Bars
from tests.places import ROOT
from translation.methods import METHODS

GROUP = "Black_Hair|Blond_Hair|Brown_Hair"
USED = "Black_Hair,Blond_Hair,Brown_Hair,Glasses,Hat"
TINY = [
    "translation.steps=6",
    "translation.batch=4",
    "retrieval.steps=4",
    "retrieval.batch=8",
    "guided.steps=4",
    "guided.batch=4",
    "index.generated=6",
    "evaluation.classifier_epochs=1",
    "evaluation.pairs=8",
    "evaluation.batch=8",
    "evaluation.diversity_inputs=2",
    "evaluation.diversity_samples=2",
    "evaluation.bootstrap=100",
    "networks.width=0.125",
    "networks.discriminator_width=0.125",
    "training.tensorboard=false",
    "training.sample_every=1000",
]
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
STAGES = ["translation", "retrieval", "index", "guided", "evaluate"]
ARMS = ("unguided", "random", "guided", "copy", "neighbour")
MEASURES = {"accuracy_changed", "accuracy_kept", "fd_attr", "fd_judge", "diversity", "identity", "truth", "n"}
RETRIEVAL = {"k", "queries", "attributes", "content", "average", "per_attribute", "random"}


@dataclass(frozen=True)
class Trained:
    """A workspace after `run`, with its answer."""

    path: Path
    answer: dict[str, Any]


def answer_of(path: Path, *words: object) -> dict[str, Any]:
    """The JSON object of a command, for fixtures that outlast a test."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(["-w", str(path), "--json", *map(str, words)])
    assert status == 0, out.getvalue()
    answer = json.loads(out.getvalue())
    assert isinstance(answer, dict)
    return answer


@pytest.fixture(scope="module")
def trained(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`add` twice and `run`, as a user would; the module's tests read what it left."""
    path = tmp_path_factory.mktemp("end") / "workspace"
    table = faces / "labelled" / "labels.csv"
    first = answer_of(path, "add", faces / "labelled", "--attributes", table, "--groups", GROUP)
    second = answer_of(path, "add", faces / "unlabelled", "--origin", "unlabelled")
    assert [first["added"], second["added"]] == [80, 12]
    return Trained(path, answer_of(path, "run", "--preset", "demo", "--attributes-used", USED, *SETTINGS))


@pytest.fixture(scope="module")
def evaluated(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The answer of `evaluate translation`, and the folder of every image and the pairs that it was asked to keep."""
    folder = tmp_path_factory.mktemp("evaluated")
    files = ("--out", folder / "out", "--grid", folder / "pairs.png", "--cases", 2)
    return answer_of(trained.path, "evaluate", "translation", *files), folder


def test_run_does_every_stage_and_writes_a_report(trained: Trained) -> None:
    answer = trained.answer
    assert [stage["name"] for stage in answer["stages"]] == STAGES
    assert all({"name", "seconds", "steps"} <= set(stage) for stage in answer["stages"])
    assert set(answer["retrieval"]) >= RETRIEVAL
    assert all(set(answer["translation"][arm]) >= MEASURES for arm in ARMS)
    assert "floor" in answer["translation"]
    report = Path(answer["report"])
    assert report.is_absolute() and "<html" in report.read_text()


def test_run_again_changes_nothing(rgunit, trained: Trained) -> None:
    before = rgunit("-w", trained.path, "info", "--json").json
    answer = rgunit("-w", trained.path, "run", "--attributes-used", USED)
    assert answer.status == 0
    assert "not learned" in answer.out and "report.html" in answer.out
    assert rgunit("-w", trained.path, "info", "--json").json == before


def test_info_tells_what_there_is(rgunit, trained: Trained) -> None:
    answer = rgunit("-w", trained.path, "info", "--json").json
    assert set(answer) >= {"images", "by_origin", "by_split", "attributes", "groups", "runs", "presets"}
    assert answer["by_origin"] == {"real": 80, "unlabelled": 12, "generated": 6}
    assert answer["images"] == 98
    assert answer["groups"] == [GROUP.split("|")]
    assert all({"id", "stage", "preset", "steps"} <= set(run) for run in answer["runs"])
    stages = [run["stage"] for run in answer["runs"]]
    assert [stages.count(stage) for stage in ("translation", "retrieval", "guided")] == [1, 1, 3]
    drawn = rgunit("-w", trained.path, "info").out
    assert "Bright_Background" in drawn and "guided" in drawn


def test_query_finds_neighbours_but_not_itself(rgunit, trained: Trained, faces: Path, tmp_path: Path) -> None:
    image, grid = faces / "labelled" / "000001.png", tmp_path / "grid.png"
    words = ("-w", trained.path, "query", image, "--to", "+Blond_Hair -Hat", "-k", 5)
    answer = rgunit(*words, "--grid", grid, "--json").json
    assert set(answer) >= {"neighbours", "plan", "milliseconds"}
    assert [one["rank"] for one in answer["neighbours"]] == [1, 2, 3, 4, 5]
    for one in answer["neighbours"]:
        assert set(one) >= {"rank", "image_id", "path", "distance", "attributes", "origin"}
        assert Path(one["path"]).is_absolute() and one["path"] != str(image)
        assert one["origin"] in ("real", "unlabelled")
        assert isinstance(one["image_id"], int) and set(one["attributes"].values()) <= {0, 1, None}
    assert Image.open(grid).size[0] > 5 * 112
    drawn = rgunit(*words).out
    assert "wanted: " in drawn and all(f"{one['image_id']}  " in drawn for one in answer["neighbours"])


def test_query_takes_generated_images_only_where_asked(rgunit, trained: Trained, faces: Path) -> None:
    words = ("-w", trained.path, "query", faces / "labelled" / "000001.png", "--to", "+Hat", "--json")
    answer = rgunit(*words, "--where", "origin=generated")
    assert {one["origin"] for one in answer.json["neighbours"]} == {"generated"}
    assert "only 6 images can be found, fewer than -k 10" in answer.err
    nothing = rgunit(*words, "--where", "split=test origin=generated")
    assert nothing.status == 1 and "no image passes the filter" in nothing.error
    assert rgunit(*words, "--where", "split=elsewhere").status == 2


def test_query_with_a_foreign_picture_of_another_kind(rgunit, trained: Trained, tmp_path: Path) -> None:
    picture = tmp_path / "grey.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 2), np.uint8), "LA").save(picture)
    answer = rgunit("-w", trained.path, "query", picture, "--style-of", picture, "-k", 2, "--json")
    assert answer.status == 0
    assert len(answer.json["neighbours"]) == 2


def test_translate_writes_what_it_says(rgunit, trained: Trained, faces: Path, tmp_path: Path) -> None:
    images = [faces / "labelled" / name for name in ("000001.png", "000002.png")]
    words = ("-w", trained.path, "translate", *images, "--to", "+Blond_Hair", "--samples", 2, "--out", tmp_path / "out")
    outputs = rgunit(*words, "--json").json["outputs"]
    assert len(outputs) == 4
    for one in outputs:
        assert set(one) >= {"source", "target", "path", "neighbours"}
        assert Path(one["path"]).is_absolute() and Image.open(one["path"]).size == (32, 32)
        assert one["target"]["Blond_Hair"] == 1 and one["target"]["Black_Hair"] == 0
        assert len(one["neighbours"]) == 3
    first = Path(outputs[0]["path"]).read_bytes()
    assert rgunit(*words, "--json").status == 0
    assert Path(outputs[0]["path"]).read_bytes() == first  # the same seed, the same picture
    assert "guided by" in rgunit(*words).out


def test_images_of_the_workspace_are_translated_listed_and_drawn(rgunit, trained: Trained, tmp_path: Path) -> None:
    words = ("translate", "--where", "split=test -Blond_Hair", "--to", "+Blond_Hair", "--out", tmp_path / "out")
    sheet = ("--sheet", tmp_path / "sheet.png", "--box", "4,4,24,24")
    answer = rgunit("-w", trained.path, *words, *sheet, "--json").json
    sources = {one["source"] for one in answer["outputs"]}
    assert 5 < len(sources) < 17 and all(one["box"] == [4, 4, 24, 24] for one in answer["outputs"])
    assert answer["drawn"] == len(sources) and Image.open(tmp_path / "sheet.png").width > 400
    with (tmp_path / "out" / "translations.csv").open(newline="") as file:
        assert {row["source"] for row in csv.DictReader(file)} == sources
    shown = rgunit("-w", trained.path, *words, *sheet)
    assert shown.out.count("(there already)") == len(sources) and "--fit takes all" in shown.out
    (tmp_path / "mine.png").write_bytes(Path(next(iter(sources))).read_bytes())
    for given, told in (
        ((*words, "--sheet", tmp_path / "mine.png"), "no sheet that was made here"),
        ((*words, "--sheet", tmp_path / "no" / "s.png"), "there is no folder"),
        (("translate", "--to", "+Blond_Hair"), "say what to translate"),
        (("translate", "--where", "id=9999", "--to", "+Blond_Hair"), "no image passes the filter"),
        ((*words[:-1], tmp_path / "mine.png" / "out"), "nothing can be written in"),
    ):
        assert told in rgunit("-w", trained.path, *given).error


def test_runs_are_listed_named_compared_and_kept(rgunit, trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(trained.path, path)
    every = rgunit("-w", path, "runs", "--json").json["runs"]
    assert [run["from"] for run in every[:3]] == [[], ["r1"], ["r1", "r2"]] and every[-1]["stage"] == "evaluate"
    assert all(run["bytes"] > 1000 for run in every)
    assert rgunit("-w", path, "runs", "rename", "r3", "mine").status == 0
    told = rgunit("-w", path, "runs", "compare", "mine", "r4", "--json").json
    assert told["settings"]["neighbours"] == {"r3": "retrieved", "r4": "random"} and told["metrics"]["steps"]["r3"] == 4
    assert "neighbours" in rgunit("-w", path, "runs", "compare", "r3", "r4").out
    assert "is what r2, r3, r4, r5, r6 came from or judged" in rgunit("-w", path, "runs", "delete", "r1").error
    assert rgunit("-w", path, "runs", "delete", "r6", "--json").json["deleted"] == ["r6"]
    assert "mine" in rgunit("-w", path, "runs").out and rgunit("-w", path, "index", "verify").status == 0
    gone = rgunit("-w", path, "runs", "delete", "r1", "r2", "mine", "r4", "r5", "--images", "--json").json
    assert (gone["deleted"], gone["images"]) == (["r5", "r4", "r3", "r2", "r1"], 6)
    assert list((path / "runs").iterdir()) == [] and rgunit("-w", path, "index", "verify").status == 0


def test_ctrl_c_while_run_indexes_says_how_to_go_on(
    rgunit, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(labelled, tmp_path / "w")
    begin = Bars.stage

    def stage(self: Bars, name: str) -> None:
        begin(self, name)
        if name == "index":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Bars, "stage", stage)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    try:
        answer = rgunit("-w", tmp_path / "w", "run", "--preset", "demo", "--attributes-used", USED, *SETTINGS, "--json")
    finally:
        signal.signal(signal.SIGINT, before)
    assert answer.status == 130 and "Traceback" not in answer.err
    assert answer.json["error"].startswith("stopped, what was done is kept: continue with the same command: rgunit -w")
    runs = rgunit("-w", tmp_path / "w", "runs", "--json").json["runs"]
    assert [run["status"] for run in runs] == ["done", "done"]


def test_an_attribute_outside_the_style_cannot_be_edited(rgunit, trained: Trained, faces: Path, tmp_path: Path) -> None:
    words = ("translate", faces / "labelled" / "000001.png", "--to", "+Smiling", "--out", tmp_path / "out")
    answer = rgunit("-w", trained.path, *words)
    assert answer.status in (1, 2)
    assert "Smiling" in answer.error
    assert not (tmp_path / "out").exists()


def test_evaluate_has_the_contracts_keys(rgunit, trained: Trained) -> None:
    answer = rgunit("-w", trained.path, "evaluate", "retrieval", "--json").json
    assert set(answer) >= RETRIEVAL
    assert set(answer["random"]) >= {"attributes", "content", "average", "per_attribute"}
    assert list(answer["per_attribute"]) == USED.split(",")
    assert answer["queries"] == 16


def test_evaluate_retrieval_against_baselines_with_a_column_and_a_picture(
    process, rgunit, trained: Trained, tmp_path: Path
) -> None:
    picture = tmp_path / "plane.svg"
    words = ("--relevance", "drawing", "--hide-labels", "0.5", "--unlabelled", "--plane", picture)
    answer = process("-w", trained.path, "--json", "evaluate", "retrieval", *words).json
    assert set(answer["baselines"]) >= {"content_only", "style_only", "late_fusion", "label_filter", "same_labels"}
    assert [row["weight"] for row in answer["late_fusion_curve"]] == [w / 10 for w in range(1, 10)]
    assert answer["recall_at_k"] is None  # every drawing is another
    assert answer["both"] == 0
    assert "late fusion" in picture.read_text(encoding="utf-8")
    shown = rgunit("-w", trained.path, "evaluate", "retrieval").out
    assert "late fusion of both, best weight 0." in shown
    assert "16 queries among 16 images" in shown


def test_evaluate_retrieval_names_the_columns_that_there_are(rgunit, trained: Trained) -> None:
    answer = rgunit("-w", trained.path, "evaluate", "retrieval", "--relevance", "identety")
    assert answer.status == 2
    assert "no text column is called 'identety'; the images have: drawing" in answer.error


@pytest.mark.slow
def test_an_ablation_keeps_its_rows_and_goes_on_with_those_that_are_missing(
    rgunit, trained: Trained, tmp_path: Path
) -> None:
    words = ["-w", trained.path, "--json", "evaluate", "retrieval", "--ablation"]
    words += ["--seeds", 1, "--steps", 2, "--jobs", 1]
    first = rgunit(*words, "--rows", "all", "--plane", tmp_path / "rows.svg").json
    assert first["rows"][0]["row"] == "all"
    assert 0 <= first["rows"][0]["mean"]["average"] <= 1
    assert {"random", "style_only", "late_fusion"} <= set(first["baselines"])
    assert "<svg" in (tmp_path / "rows.svg").read_text()
    made = {file: file.stat().st_mtime_ns for file in (trained.path / "ablation").rglob("row-*.json")}
    both = rgunit(*words, "--rows", "all,parts_labels").json
    assert [row["row"] for row in both["rows"]] == ["all", "parts_labels"]
    assert both["rows"][0]["mean"] == first["rows"][0]["mean"]
    assert both["rows"][1]["curve"][0]["weight"] == 0
    assert all(file.stat().st_mtime_ns == when for file, when in made.items())


def test_evaluate_keeps_every_image_on_request(evaluated: tuple[dict[str, Any], Path]) -> None:
    answer, folder = evaluated
    with Image.open(folder / "pairs.png") as sheet:
        assert sheet.height >= 3 * 2 * 112 and sheet.width >= 8 * 112, "source, 3 neighbours, 4 arms"
    assert all(set(answer[arm]) >= MEASURES for arm in ARMS)
    assert answer["unguided"]["fd_judge"] is None
    rows = [json.loads(line) for line in (folder / "out" / "manifest.jsonl").read_text().splitlines()]
    assert {row["arm"] for row in rows} >= set(ARMS)
    assert all(set(row) == {"source", "target", "arm", "path"} and Path(row["path"]).is_file() for row in rows)


def test_evaluate_both_ways_says_so_beside_the_contract(
    rgunit, trained: Trained, evaluated: tuple[dict[str, Any], Path]
) -> None:
    words = ("-w", trained.path, "evaluate", "translation", "--both-ways")
    answer = rgunit(*words)
    assert answer.status == 0 and "both ways" in answer.out
    plain, found = evaluated[0], rgunit(*words, "--json").json
    both = found.pop("both_ways")
    assert found.keys() == plain.keys() and found["guided"]["fd_attr"] == pytest.approx(plain["guided"]["fd_attr"])
    assert both["guided"]["n"] > plain["guided"]["n"] and "guided vs unguided" in both["comparisons"]


def test_pairs_are_shown_blind_and_choices_are_counted(rgunit, trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "blind"
    words = ("-w", trained.path, "evaluate", "translation", "--ab", folder)
    told = rgunit("--json", *words, "--arms", "guided,copy").json
    page, key = (folder / "page.html").read_text(), json.loads((folder / "key.json").read_text())
    assert told == {"page": str(folder / "page.html"), "arms": ["guided", "copy"], "pairs": len(key["first_is_left"])}
    assert not re.search("guided|copy|://", re.sub(r'"(source|left|right)":"[^"]*"', "", page)), "the page knows no arm"
    pairs = json.loads(page.split('id="data">')[1].split("</script>")[0])["pairs"]
    assert abs(2 * sum(key["first_is_left"]) - len(pairs)) <= 1, "each arm is on each side as often"
    for pair, left in zip(pairs, key["first_is_left"], strict=True):
        assert pair.keys() == {"source", "left", "right", "change", "wanted"} and pair["change"]
        images = {side: Image.open(io.BytesIO(base64.b64decode(pair[side]))) for side in ("source", "left", "right")}
        assert all(image.size == (32, 32) and not image.info for image in images.values())
        assert pair["right" if left else "left"] == pair["source"], "the second arm gives its input back"
    chosen = {str(i): "left" if left else "right" for i, left in enumerate(key["first_is_left"])}
    file = tmp_path / "choices.json"
    file.write_text(json.dumps({"page": key["page"], "judge": "me", "choices": chosen}))
    found = rgunit("--json", "evaluate", "translation", "--ab", folder, "--choices", file).json
    assert (found["arms"], found["share"], found["judged"]) == (["guided", "copy"], 1.0, len(pairs))
    assert (
        "guided: preferred to copy in 100.0%"
        in rgunit("evaluate", "translation", "--ab", folder, "--choices", file).out
    )
    assert rgunit(*words, "--arms", "guided,copy").status == 0, "the same page again"
    before = (folder / "key.json").read_bytes()
    other = rgunit(*words, "--arms", "unguided,copy")
    assert other.status == 1 and "holds another comparison" in other.error
    assert (folder / "key.json").read_bytes() == before
    wrong = rgunit(*words, "--arms", "guided,best")
    assert wrong.status == 2 and "there is no arm best here: choose two of stage1, " in wrong.error


def test_evaluate_names_weights_that_are_absent(rgunit, trained: Trained, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for words, told in (
        (("--inception-weights", "cache"), "put the file of https://"),
        (("--lpips-weights", tmp_path / "none.pth"), "none.pth: give --lpips-weights the file of https://"),
    ):
        answer = rgunit("-w", trained.path, "evaluate", "translation", *words)
        assert answer.status == 1 and told in answer.error and len(answer.error.splitlines()) == 1
    assert rgunit("-w", trained.path, "evaluate", "translation", "--classifier", "resnet34").status == 2


def test_arms_are_judged_on_the_pairs_kept_with_their_start(rgunit, trained: Trained) -> None:
    assert [file.name for file in (trained.path / "runs").glob("r1-*/pairs-*-0.jsonl")] == ["pairs-test-8-0.jsonl"]


def test_index_is_checked_emptied_and_filled_again(rgunit, trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(trained.path, path)
    answer = rgunit("-w", path, "index", "verify", "--json").json
    assert (answer["vectors"], answer["ok"], answer["problems"]) == (98, True, [])
    assert answer["shards"] >= 1
    assert rgunit("-w", path, "index", "info", "--json").json["vectors"] == 98
    answer = rgunit("-w", path, "index", "remove", "--where", "origin=generated", "--json").json
    assert (answer["removed"], answer["vectors"], answer["ok"]) == (6, 92, True)
    answer = rgunit("-w", path, "index", "build", "--generated", 3, "--json").json
    assert (answer["generated"], answer["added"], answer["vectors"], answer["ok"]) == (3, 3, 95, True)
    answer = rgunit("-w", path, "index", "rebuild", "--json").json
    assert (answer["vectors"], answer["ok"]) == (95, True)


def test_train_resumes_only_with_the_same_settings(rgunit, trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(trained.path, path)
    other = rgunit("-w", path, "train", "translation", "--resume", "--attributes-used", "Hat,Beard")
    assert other.status == 1
    assert "cannot be resumed with other settings" in other.error and "attributes_used" in other.error
    words = ("-w", path, "train", "retrieval", "--preset", "demo", *SETTINGS, "--json")
    answer = rgunit(*words).json
    assert set(answer) >= {"run", "steps", "seconds", "metrics"}
    assert answer["steps"] == 4
    more = rgunit(*words, "--set", "retrieval.steps=6", "--resume").json
    assert (more["run"], more["steps"]) == (answer["run"], 6)
    slower = (*words, "--set", "retrieval.steps=8", "--set", "retrieval.learning_rate=1e-4", "--resume")
    refused = rgunit(*slower)
    assert (
        refused.status == 1 and "retrieval.learning_rate: was" in refused.error and "--allow-changes" in refused.error
    )
    changed = rgunit(*slower, "--allow-changes").json
    assert (changed["run"], changed["steps"]) == (answer["run"], 8)
    assert rgunit(*slower[:-1], "--set", "retrieval.steps=9", "--resume").json["run"] == answer["run"], "they are kept"
    another = rgunit(*words, "--set", "retrieval.hidden=8", "--resume", "--allow-changes")
    assert another.status == 1 and "cannot go on with another retrieval.hidden" in another.error
    assert rgunit(*slower[:-1], "--set", "retrieval.steps=10", "--resume").json["steps"] == 10, (
        "and nothing was changed"
    )
    assert rgunit(*words, "--allow-changes").status == 2


def test_a_checkpoint_of_another_schema_is_refused(rgunit, trained: Trained, faces: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(trained.path, path)
    words = ("train", "translation", "--preset", "demo", "--attributes-used", "Hat,Beard", *SETTINGS, "--json")
    other = rgunit("-w", path, *words).json["run"]
    first = next(run for run in rgunit("-w", path, "info", "--json").json["runs"] if run["stage"] == "translation")
    checkpoint = path / "runs" / f"{other}-translation" / "checkpoint.safetensors"
    shutil.copy(checkpoint, path / "runs" / f"{first['id']}-translation" / checkpoint.name)
    answer = rgunit("-w", path, "query", faces / "labelled" / "000001.png", "--to", "+Hat")
    assert answer.status == 1
    assert "unexpected" not in answer.error


def test_the_python_of_the_documents_asks_a_trained_workspace(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "demo").symlink_to(trained.path)
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "python.md"
    for document, place, lines in ((ROOT / "README.md", 1, 8), (page, 2, 11), (page, 1, len(METHODS))):
        block = document.read_text().split("```python\n")[place].split("```")[0]
        for _ in range(2):  # a notebook's cell is run again
            exec(compile(block, document.name, "exec"), {})
            assert len(capsys.readouterr().out.splitlines()) == lines

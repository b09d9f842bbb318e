"""`query`, `similar`, `duplicates` and `map` of a workspace that was trained for a few steps."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cli.main import main
from index_store.workspace import Workspace
from tests.places import ROOT

USED = "Black_Hair,Blond_Hair,Brown_Hair,Glasses,Hat"
TINY = (
    "translation.steps=2",
    "translation.batch=4",
    "retrieval.steps=2",
    "retrieval.batch=8",
    "index.generated=4",
    "networks.width=0.125",
    "networks.discriminator_width=0.125",
    "training.tensorboard=false",
    "training.sample_every=1000",
)


@pytest.fixture(scope="module")
def asked(labelled: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with 80 labelled faces, 12 unlabelled ones, 4 generated, and the first two stages."""
    path = tmp_path_factory.mktemp("asked") / "workspace"
    shutil.copytree(labelled, path)
    settings = [word for setting in TINY for word in ("--set", setting)]
    for words in (
        ["add", faces / "unlabelled", "--origin", "unlabelled"],
        ["train", "translation", "--preset", "demo", "--attributes-used", USED, *settings],
        ["train", "retrieval", "--preset", "demo", *settings],
        ["index", "build"],
    ):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["-w", str(path), "--json", *map(str, words)]) == 0, out.getvalue()
    yield path


@pytest.fixture
def face(faces: Path) -> Path:
    return faces / "labelled" / "000001.png"


def test_the_answer_as_json_as_csv_and_as_a_picture(rgunit, asked: Path, face: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    files = ("--csv", tmp_path / "out" / "found.csv", "--grid", tmp_path / "out" / "found.png")
    answer = rgunit("-w", asked, "query", face, "--to", "+Blond_Hair", "-k", 9, *files, "--json").json
    assert set(answer) >= {"neighbours", "plan", "milliseconds"} and len(answer["neighbours"]) == 9
    with (tmp_path / "out" / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [one["path"] for one in answer["neighbours"]]
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 10)]
    for row, one in zip(rows, answer["neighbours"], strict=True):
        bits = {name: None if row[name] == "" else int(row[name]) for name in one["attributes"]}
        assert bits == one["attributes"]
        assert float(row["distance"]) == pytest.approx(one["distance"], rel=1e-4)
    width, height = Image.open(tmp_path / "out" / "found.png").size
    assert width > 8 * 112 and height > 3 * 112  # the query, eight found, one more
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["found.csv", "found.png"]


def test_the_table_says_what_matched_and_what_did_not(rgunit, asked: Path, face: Path) -> None:
    answer = rgunit("-w", asked, "query", face, "--to", "+Blond_Hair +Glasses", "-k", 60)
    assert answer.out.startswith("wanted: -Black_Hair +Blond_Hair -Brown_Hair +Glasses")
    assert "not as wanted" in answer.out and "✓" in answer.out and "-Glasses" in answer.out
    found = rgunit("-w", asked, "query", face, "--to", "+Blond_Hair", "-k", 60, "--where", "+Glasses", "--json").json
    assert all(one["attributes"]["Glasses"] == 1 for one in found["neighbours"])


def test_several_images_an_origin_and_a_weight(rgunit, asked: Path, faces: Path) -> None:
    images = [faces / "labelled" / f"00000{i}.png" for i in range(3)]
    with Workspace.open(asked) as workspace:
        own = {workspace.image_for_path(path) for path in images}
    words = ("-w", asked, "query", *images, "--to", "+Hat", "-k", 100, "--json")
    every = rgunit(*words).json["neighbours"]
    assert len(every) == 80 + 12 - 3 and not own & {one["image_id"] for one in every}
    unlabelled = rgunit(*words, "--origin", "unlabelled").json["neighbours"]
    assert len(unlabelled) == 12 and {one["origin"] for one in unlabelled} == {"unlabelled"}
    both = rgunit(*words, "--origin", "unlabelled", "--origin", "generated").json["neighbours"]
    assert {one["origin"] for one in both} == {"unlabelled", "generated"}
    weighed = rgunit(*words, "--content-weight", 0.7).json
    assert "r2.content + r2.style" in weighed["plan"]
    assert [one["image_id"] for one in weighed["neighbours"]] != [one["image_id"] for one in every]


def test_known_labels_decide_unless_they_are_to_be_ignored(rgunit, asked: Path, face: Path) -> None:
    words = ("-w", asked, "query", face, "--to", "+Hat -Glasses", "-k", 92, "--json")
    told = rgunit(*words).json
    assert told["labels"] == "prefer" and len(told["neighbours"]) == 91
    target = told["target"].items()
    fits = [all(one["attributes"][name] == bit for name, bit in target) for one in told["neighbours"]]
    wrong = [any(one["attributes"][name] == 1 - bit for name, bit in target) for one in told["neighbours"]]
    assert fits == sorted(fits, reverse=True) and any(fits)  # what is known to fit, then what is unknown
    assert wrong == sorted(wrong) and any(wrong) and not all(wrong)
    every = {one["image_id"]: one["distance"] for one in rgunit(*words, "--labels", "ignore").json["neighbours"]}
    assert list(every.values()) == sorted(every.values())
    for one in told["neighbours"]:  # the distance is the same, only the order is another
        assert every[one["image_id"]] == pytest.approx(one["distance"], rel=1e-3, abs=1e-4)
    required = rgunit(*words, "--labels", "require").json["neighbours"]
    assert [one["image_id"] for one in required] == [one["image_id"] for one in told["neighbours"]][: sum(fits)]
    refused = rgunit(*words[:-1], "--labels", "require", "--where", "-Hat")
    assert refused.status == 2 and "--labels require asks for +Hat, which the filter '-Hat" in refused.error


def test_a_folder_is_asked_picture_by_picture(rgunit, asked: Path, faces: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "more").mkdir(parents=True)
    for name in ("000001.png", "000002.png"):
        shutil.copy(faces / "labelled" / name, folder / "more" / name)
    (folder / "text.png").write_text("no picture")
    answer = rgunit("-w", asked, "query", folder, "--to", "+Hat", "-k", 3, "--csv", tmp_path / "f.csv", "--json")
    told = answer.json
    assert [Path(one["image"]).name for one in told["queries"]] == ["000001.png", "000002.png"]
    assert [Path(one["path"]).name for one in told["rejected"]] == ["text.png"] and "left out" in answer.err
    for one in told["queries"]:
        alone = rgunit("-w", asked, "query", one["image"], "--to", "+Hat", "-k", 3, "--json").json
        assert alone["neighbours"] == one["neighbours"]
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["query"], row["path"]) for row in rows] == [
        (one["image"], near["path"]) for one in told["queries"] for near in one["neighbours"]
    ]
    shown = rgunit("-w", asked, "query", folder, "--to", "+Hat", "-k", 3).out
    assert "000001.png" in shown and "fitting" in shown


@pytest.mark.parametrize("words", [["query", "--to", "+Blond_Hair +Glasses"], ["similar"]])
def test_a_narrow_terminal_loses_neither_rank_nor_distance_nor_path(asked: Path, face: Path, words: list[str]) -> None:
    from rich.console import Console

    from cli.answers import draw_answer
    from retrieval.retriever import Retriever

    edit = words[2] if len(words) > 2 else None
    with Retriever.open(asked) as retriever:
        found = retriever.search(face, edit=edit, k=12)
    shown = {}
    for width in (48, 80, 400):
        out = io.StringIO()
        draw_answer(Console(file=out, width=width, force_terminal=True, color_system=None), found, [])
        lines = out.getvalue().splitlines()
        for one in found:
            (line,) = [line for line in lines if line.split()[:1] == [str(one.rank)]]
            assert f"{one.distance:.3f}" in line and len(line) <= width
            assert line.rstrip().endswith(str(one.path)[-16:])
            assert width < 400 or str(one.path) in line
        shown[width] = next(line for line in lines if "distance" in line)
    assert "Blond_Hair" not in shown[80] and "Blond_Hair" in shown[400]  # single labels go first
    assert all(name in shown[400] for name in ("id", "labels", "not as wanted", "origin", "image"))


def test_similar_needs_no_edit(process, asked: Path, face: Path) -> None:
    answer = process("-w", asked, "similar", face, "-k", 4, "--json")
    assert answer.status == 0, answer.err
    assert len(answer.json["neighbours"]) == 4
    assert str(face) not in [one["path"] for one in answer.json["neighbours"]]


def test_a_query_imports_only_what_it_needs(asked: Path, face: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from cli.main import main\n"
        f"assert main(['-w', {str(asked)!r}, 'query', {str(face)!r}, '--to', '+Hat', '--json']) == 0\n"
        "print('modules:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split("modules:")[1].split()}
    slow = {"torchvision", "lightning_fabric", "torchmetrics", "pytorch_metric_learning", "sklearn"}
    assert not loaded & slow
    assert ("torch" in loaded) != ("onnxruntime" in loaded)  # by graphs, where they were written, else by torch


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["query", "FACE", "--to", "+Smiling"], 2, "Smiling cannot be edited: the style was trained on Black_Hair"),
        (["query", "FACE", "--to", "+Hat", "--content-weight", "1.5"], 2, "'--content-weight'"),
        (["query", "FACE", "--to", "+Hat", "--origin", "elsewhere"], 2, "unknown origin 'elsewhere'"),
        (["similar", "FACE", "--where", "+Glases"], 2, "unknown attribute 'Glases'"),
        (["similar", "FACE", "--where", "split=tset"], 2, "no image is in the split 'tset': did you mean test?"),
        (["similar", "FACE", "--where", "splt=test"], 2, "unknown attribute 'splt': did you mean split?"),
        (["similar", "FACE", "--where", "id=9999"], 1, "no image passes the filter 'id=9999': widen it"),
        (
            ["query", "FACE", "--to", "+Hat", "--grid", "foldr/found.png"],
            2,
            "--grid foldr/found.png: there is no folder",
        ),
        (
            ["query", "FACE", "--to", "+Hat", "--csv", "broken.png/a.csv"],
            2,
            "--csv broken.png/a.csv: there is no folder",
        ),
        (["query", "FOLDER", "FACE", "--to", "+Hat"], 2, "name images or folders"),
        (["query", "FOLDER", "--to", "+Hat", "--grid", "a.png"], 2, "--grid draws one query"),
        (["similar", "BROKEN", "--labels", "never"], 2, "'never' is not one of 'prefer', 'require', 'ignore'"),
        (["similar", "BROKEN"], 1, "truncated or damaged"),
        (["similar", "TINY"], 1, "too small"),
        (["index", "build", "--content-model", "missing.onnx"], 2, "there is no file missing.onnx"),
        (["index", "build", "--content-model", "FACE"], 1, "no ONNX network"),
        (["index", "build", "--content-crop", "1,2,3,4@5"], 2, "--content-crop needs --content-model"),
        (["duplicates", "--distance", "40"], 2, "'--distance'"),
        (["duplicates", "--where", "split=none"], 2, "no image is in the split 'none': there are test, train"),
        (["duplicates", "--where", "id=9999"], 1, "there are no images to compare that pass 'id=9999'"),
        (["duplicates", "--picture", "none/d.png"], 2, "--picture none/d.png: there is no folder"),
        (["map", "--out", "map.gif"], 2, "end its name in .html for a page or .png"),
        (["map", "--out", "map.png", "--color", "Hatt"], 2, "unknown attribute 'Hatt': did you mean Hat"),
        (["map", "--out", "map.png", "--where", "id=9999"], 1, "at least 10 indexed images, and 0 pass"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    rgunit, asked: Path, face: Path, tmp_path: Path, monkeypatch, words: list[str], status: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(face.read_bytes()[:300])
    Image.new("RGB", (9, 9)).save(tmp_path / "tiny.png")
    before = sorted(tmp_path.iterdir())
    places = {"FACE": str(face), "FOLDER": str(face.parent), "BROKEN": "broken.png", "TINY": "tiny.png"}
    answer = rgunit("-w", asked, *[places.get(word, word) for word in words])
    assert answer.status == status and told in answer.error
    assert sorted(tmp_path.iterdir()) == before


def test_an_empty_index_and_an_older_network_are_told(rgunit, asked: Path, face: Path, tmp_path: Path) -> None:
    path = tmp_path / "w"
    shutil.copytree(asked, path)
    settings = [word for setting in TINY for word in ("--set", setting)]
    more = ("train", "translation", "--preset", "demo", "--attributes-used", USED, *settings, "--resume")
    assert rgunit("-w", path, *more, "--set", "translation.steps=4").status == 0
    answer = rgunit("-w", path, "query", face, "--to", "+Hat")
    assert answer.status == 1 and "retrieval run r2 is older than its translator" in answer.error
    assert rgunit("-w", path, "train", "retrieval", "--preset", "demo", *settings).status == 0
    answer = rgunit("-w", path, "query", face, "--to", "+Hat")
    assert answer.status == 1 and "no vectors r3 of the retrieval run r3" in answer.error
    assert f"rgunit -w {path} index build" in answer.error
    answer = rgunit("-w", path, "map", "--out", tmp_path / "map.png")
    assert (
        answer.status == 1 and f"rgunit -w {path} index build" in answer.error and not (tmp_path / "map.png").exists()
    )


def test_duplicates_are_found_in_groups_and_drawn(process, rgunit, faces: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    first, second = Image.open(folder / "0.png"), Image.open(folder / "3.png")
    first.save(folder / "encoded.jpg", quality=70)
    ImageEnhance.Brightness(first).enhance(1.1).save(folder / "brighter.png")
    second.resize((64, 64)).save(folder / "smaller.png")
    path = tmp_path / "w"
    assert rgunit("-w", path, "add", folder, "--origin", "unlabelled").status == 0
    answer = process("-w", path, "duplicates", "--picture", tmp_path / "d.png", "--json")
    assert answer.status == 0, answer.err
    groups = [{Path(one["path"]).name for one in group} for group in answer.json["groups"]]
    assert sorted(map(sorted, groups)) == [["0.png", "brighter.png", "encoded.jpg"], ["3.png", "smaller.png"]]
    assert (answer.json["images"], answer.json["duplicates"]) == (9, 3)
    assert Image.open(tmp_path / "d.png").size[0] > 5 * 112
    told = rgunit("-w", path, "duplicates").out  # from the cache
    assert "3 near-duplicates in 2 groups among 9 images" in told
    (path / "cache" / "perceptual-hashes.npz").write_bytes(b"nothing of the kind")
    (folder / "5.png").unlink()
    again = rgunit("-w", path, "duplicates", "--json")
    assert len(again.json["groups"]) == 2 and again.json["images"] == 8
    assert "1 images cannot be read, the first: " in again.err and "5.png" in again.json["unreadable"][0]
    nothing = rgunit("-w", path, "duplicates", "--distance", 0, "--where", "id=9999")
    assert nothing.status == 1 and "id=9999" in nothing.error


def test_a_map_is_one_page_or_a_picture(rgunit, asked: Path, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    answer = rgunit("-w", asked, "map", "--out", page, "--color", "Hat", "--images", 40, "--json").json
    assert (answer["images"], answer["of"]) == (40, 92) and answer["out"] == str(page)
    text = page.read_text()
    assert "://" not in text.replace("data:image/jpeg;base64", "")  # nothing is fetched
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert len(data["places"]) == len(data["ids"]) == len(data["names"]) == 40 and data["colour"] == "Hat"
    with Workspace.open(asked) as workspace:
        table = workspace.images(ids=data["ids"])
        used = workspace.runs("retrieval")[-1].config["attributes_used"]
    assert rgunit("-w", asked, "map", "--out", tmp_path / "opened.html", "--images", 40).status == 0
    assert f'"colour":"{used[0]}"' in (tmp_path / "opened.html").read_text(), "it opens on an attribute in use"
    hats = table.labels[:, table.schema.index("Hat")]
    assert [int(c) for c in data["choices"]["Hat"]["entry"]] == [2 if bit < 0 else 1 - bit for bit in hats.tolist()]
    words = ("-w", asked, "map", "--out", tmp_path / "map.png", "--method", "pca")
    assert rgunit(*words, "--color", "origin", "--by", "style").status == 0
    coloured = np.asarray(Image.open(tmp_path / "map.png"))
    assert rgunit(*words).status == 0
    assert (np.asarray(Image.open(tmp_path / "map.png")) != coloured).any()


def test_a_content_model_of_the_users(
    rgunit, asked: Path, face: Path, tmp_path: Path, write_network: Callable[[Path, list[int | str]], Path]
) -> None:
    path, file = tmp_path / "w", write_network(tmp_path / "colour.onnx", ["n", 3, 16, 16])
    shutil.copytree(asked, path)
    built = rgunit("-w", path, "index", "build", "--content-model", file, "--json").json
    assert built["vectors"] == 96 and any(one["name"].startswith("content.") for one in built["encoders"])
    words = ("-w", path, "similar", face, "--content-weight", 0.9, "--json")
    file.unlink()
    assert "content." in rgunit(*words).json["plan"]
    assert rgunit("-w", path, "index", "build", "--content-model", "none").status == 0
    assert "r2.content" in rgunit(*words).json["plan"]

"""Bad input: one clear line, status 1 or 2, nothing half-written; a process of its own ends with that status."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store.images import write_image
from index_store.workspace import Workspace
from tests.places import ROOT


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    return path


def test_no_workspace_says_how_to_make_one(process, tmp_path: Path) -> None:
    answer = process("-w", tmp_path / "none", "info", "--json")
    assert answer.status == 1
    assert answer.json == {"error": answer.error}
    assert "run `rgunit -w" in answer.error and "add" in answer.error
    assert not (tmp_path / "none").exists()


def test_an_unknown_attribute_offers_the_nearest_names(process, labelled: Path, picture: Path) -> None:
    answer = process("-w", labelled, "query", picture, "--to", "+Blond_Hiar")
    assert answer.status == 2
    assert "unknown attribute 'Blond_Hiar': did you mean Blond_Hair" in answer.error


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ("+Hat -Hat", "contradicts itself: Hat is both set and cleared"),
        ("+Black_Hair +Blond_Hair", "exclude each other"),
        ("", "the edit is empty"),
    ],
)
def test_a_contradictory_or_empty_edit_is_refused(rgunit, labelled: Path, picture: Path, edit: str, told: str) -> None:
    answer = rgunit("-w", labelled, "translate", picture, "--to", edit)
    assert answer.status == 2
    assert told in answer.error
    assert not (labelled / "translations").exists()


def test_neither_edit_nor_style_is_refused(rgunit, labelled: Path, picture: Path) -> None:
    answer = rgunit("-w", labelled, "query", picture)
    assert answer.status == 2
    assert "--to" in answer.error and "--style-of" in answer.error


def test_a_contradictory_filter_is_refused(rgunit, labelled: Path, picture: Path) -> None:
    answer = rgunit("-w", labelled, "query", picture, "--to", "+Hat", "--where", "split=test split=train")
    assert answer.status == 2
    assert "contradicts itself" in answer.error


def test_a_query_picture_that_is_none_is_refused(rgunit, labelled: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    answer = rgunit("-w", labelled, "query", text, "--to", "+Hat", "--grid", tmp_path / "grid.png")
    assert answer.status == 1
    assert "text.png: not an image" in answer.error
    assert not (tmp_path / "grid.png").exists()


def test_a_query_before_any_training_says_what_to_run(rgunit, labelled: Path, picture: Path) -> None:
    answer = rgunit("-w", labelled, "query", picture, "--to", "+Hat")
    assert answer.status == 1
    assert f"run `rgunit -w {labelled} train retrieval` first" in answer.error  # the workspace that was asked


def test_what_needs_a_run_is_refused_before_torch_is_loaded(labelled: Path, picture: Path, tmp_path: Path) -> None:
    commands = [
        ["similar", str(picture)],
        ["query", str(picture), "--to", "+Hat"],
        ["translate", str(picture), "--to", "+Hat"],
        ["map", "--out", "map.html"],
        ["index", "build"],
        ["evaluate", "retrieval"],
        ["evaluate", "translation"],
        ["train", "retrieval"],
        ["train", "guided"],
    ]
    code = (
        "import sys; from cli.main import main\n"
        f"print([main(['-w', {str(labelled)!r}, *words]) for words in {commands!r}], 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    lines = done.stderr.splitlines()
    assert done.stdout.strip() == f"{[1] * len(commands)} False" and len(lines) == len(commands), done.stderr
    assert all(line.startswith("error: ") and f"run `rgunit -w {labelled} train " in line for line in lines)


def test_an_empty_folder_leaves_no_workspace_behind(rgunit, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = rgunit("-w", tmp_path / "w", "add", tmp_path / "empty", "--origin", "unlabelled")
    assert answer.status == 1
    assert "nothing to add" in answer.error
    assert not (tmp_path / "w").exists()


def test_only_bad_files_leave_no_workspace_behind(rgunit, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    answer = rgunit("-w", tmp_path / "w", "add", folder, "--origin", "unlabelled", "--json")
    assert answer.status == 1
    assert answer.json["error"].startswith("nothing was added: 1 refused, the first")
    assert len(answer.json["rejected"]) == 1
    assert not (tmp_path / "w").exists()


def test_a_folder_that_was_there_is_never_taken_away(rgunit, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.txt").write_text("mine")
    assert rgunit("-w", tmp_path / "w", "add", tmp_path / "w", "--origin", "real").status == 1
    assert (tmp_path / "w" / "mine.txt").read_text() == "mine"


def test_odd_images_are_taken_and_broken_ones_refused_with_their_reason(rgunit, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    random = np.random.default_rng(1)
    Image.fromarray(random.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / "plain.png")
    Image.fromarray(random.integers(0, 255, (60, 50), np.uint8)).save(folder / "grey.png")
    Image.fromarray(random.integers(0, 255, (40, 40, 4), np.uint8), "RGBA").save(folder / "alpha.png")
    whole = (folder / "plain.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no picture")
    Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / "tiny.png")
    answer = rgunit("-w", tmp_path / "w", "add", folder, "--origin", "unlabelled", "--json")
    assert answer.status == 0
    assert (answer.json["added"], answer.json["converted"]) == (3, 2)
    reasons = {Path(one["path"]).name: one["reason"] for one in answer.json["rejected"]}
    assert "truncated" in reasons["truncated.png"]
    assert "not an image" in reasons["text.jpg"]
    assert "too small" in reasons["tiny.png"]


def test_rows_without_a_file_and_files_without_a_row_are_counted_and_listed(
    rgunit, faces: Path, tmp_path: Path
) -> None:
    lines = (faces / "labelled" / "labels.csv").read_text().splitlines()
    table = tmp_path / "labels.csv"
    table.write_text("\n".join([*lines[:11], lines[11].replace("000010", "nowhere")]) + "\n")
    words = ("-w", tmp_path / "w", "add", faces / "labelled", "--attributes", table)
    answer = rgunit(*words, "--json")
    assert answer.status == 0
    assert answer.json["added"] == 10
    assert answer.json["rows_without_file"] == ["nowhere.png"]
    assert len(answer.json["files_without_row"]) >= 70
    told = rgunit(*words).out
    assert "1 row without a file" in told and "nowhere.png" in told and "(--json lists all)" in told


def test_a_csv_that_names_no_file_is_an_error(rgunit, faces: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("image,Hat\nelsewhere.png,1\n")
    answer = rgunit("-w", tmp_path / "w", "add", faces / "labelled", "--attributes", table)
    assert answer.status == 1
    assert "none of the 1 rows names one of the" in answer.error
    assert not (tmp_path / "w").exists()


def test_a_column_that_mixes_conventions_is_refused(rgunit, faces: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("image,Hat\n000000.png,1\n000001.png,0\n000002.png,-1\n")
    answer = rgunit("-w", tmp_path / "w", "add", faces / "labelled", "--attributes", table)
    assert answer.status in (1, 2)
    assert "Hat" in answer.error
    assert not (tmp_path / "w").exists()


def test_a_second_writer_is_told_who_writes(process, rgunit, labelled: Path, faces: Path, tmp_path: Path) -> None:
    path = tmp_path / "w"
    shutil.copytree(labelled, path)
    with Workspace.open(path) as workspace:
        workspace.set_meta("held", "yes")
        answer = process("-w", path, "add", faces / "unlabelled", "--origin", "unlabelled")
    assert answer.status == 1
    assert "is being written by process" in answer.error
    assert rgunit("-w", path, "info", "--json").json["images"] == 80


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["run", "--preset", "demmo"], 2, "unknown preset 'demmo': did you mean demo?"),
        (["run", "--preset", "demo", "--set", "translation.batc=4"], 2, "did you mean batch?"),
        (["run", "--preset", "demo", "--set", "translation.batch=none"], 2, "setting translation.batch"),
        (["run", "--preset", "demo", "--set", "translation.steps=0"], 2, "must be greater than or equal to 1, not 0"),
        (["train", "translation", "--preset", "demo", "--set", "translation.batch=1000"], 1, "is larger than the 64"),
        (
            ["train", "translation", "--preset", "demo", "--set", "networks.perceptual_weights=none.pth"],
            1,
            "none.pth",
        ),
        (["train", "guided", "--preset", "demo"], 1, "no run of stage translation yet"),
        (["run", "--attributes-used", "Hat,Bear"], 2, "unknown attribute 'Bear': did you mean Beard"),
        (["train", "retrieval", "--attributes-used", "Hat"], 2, "belongs to `train translation`"),
        (["train", "translation", "--neighbours", "none"], 2, "belongs to `train guided`"),
        (["train", "translation", "--translation-run", "r1"], 2, "names the run that `train retrieval`"),
        (["train", "retrieval", "--retrieval-run", "r2"], 2, "belongs to `train guided`"),
        (["train", "translation", "--resume-at", "best"], 2, "--resume-at needs --resume"),
        (["train", "translation", "--from", "r1"], 2, "belongs to `train generator` and `train miner`"),
        (["train", "generator", "--transfer", "generator"], 2, "belongs to `train generator --from RUN`"),
        (["train", "generator", "--from", "r1", "--from", "r2"], 2, "starts from one run"),
        (["train", "generator", "--preset", "demo"], 1, "gmm_unit has no stage generator: give --method wgan_gp"),
        (["train", "translation", "--preset", "wgan-gp"], 1, "wgan_gp has no stage translation"),
        (["train", "generator", "--preset", "wgan-gp", "--set", "data.size=96"], 2, "must be a power of 2, not 96"),
        (["train", "generator", "--preset", "wgan-gp", "--set", "generator.step=4"], 2, "did you mean steps"),
        (["train", "generator", "--preset", "wgan-gp", "--target", "+Bear"], 2, "did you mean Beard"),
        (["train", "miner", "--preset", "wgan-gp"], 2, "needs the generators to mine: --from RUN"),
        (["train", "miner", "--preset", "wgan-gp", "--from", "r9"], 1, "there is no run 'r9'"),
        (["run", "--preset", "wgan-gp"], 2, "makes images from noise and translates none"),
        (["run", "--preset", "wgan-gp", "--dry-run"], 2, "makes images from noise and translates none"),
        (["run", "--preset", "zero-pair", "--dry-run"], 2, "translates between modalities, not between labels"),
        (["generate", "r1", "-n", "4"], 1, "there is no run 'r1': nothing was trained yet"),
        (["generate", "r1", "-n", "0"], 2, "'-n'"),
        (["generate", "r1", "-n", "4", "--domain", "+Bear"], 2, "did you mean Beard"),
        (["evaluate", "generator"], 1, "no trained generator: run `rgunit -w "),
        (["evaluate", "transfer", "--mix", "0.3,0.3", "--target", "+Hat", "--target", "-Hat"], 2, "that sum to 1"),
        (["evaluate", "transfer", "--mix", "much"], 2, "--mix takes numbers"),
        (["evaluate", "transfer", "--rows", "magic"], 2, "no row is called 'magic'"),
        (["--device", "gpu", "train", "translation"], 2, "'gpu' is none of auto, cpu, cuda, cuda:N and mps"),
        (["--device", "cuda:99", "train", "translation", "--preset", "demo"], 1, "CUDA device"),
        (["run", "--minutes", "0"], 2, "'--minutes'"),
        (["index", "remove"], 2, "say what to remove"),
        (["index", "remove", "--id", "4711"], 1, "no image has id 4711"),
        (["--catalog", "postgresql+psycopg://me@db/x", "index", "info"], 1, "leave --catalog out"),
        (["evaluate", "translation", "--judge-crop", "1,2,3,4@128"], 2, "--judge-crop needs --judge"),
        (["evaluate", "translation", "--cases", "5"], 2, "--cases needs --grid"),
        (["evaluate", "translation", "--arms", "guided,copy"], 2, "--choices need --ab DIR"),
        (["evaluate", "translation", "--ab", "blind", "--reverse"], 2, "--ab takes only --split, --run, --arms"),
        (
            ["evaluate", "translation", "--ab", "blind", "--choices", "a", "--arms", "a,b"],
            2,
            "as it was written: leave",
        ),
        (
            ["evaluate", "translation", "--ab", "blind", "--choices", "a"],
            1,
            "blind/key.json cannot be read as a key of",
        ),
        (["evaluate", "translation", "--grid", "pairs.jpg"], 2, "a name that ends in .png, not pairs.jpg"),
        (["evaluate", "translation", "--classifier-minutes", "0"], 2, "'--classifier-minutes'"),
        (["evaluate", "retrieval", "--plane", "plane.png"], 2, "a name that ends in .svg, not plane.png"),
        (["evaluate", "retrieval", "--hide-labels", "75"], 2, "'--hide-labels'"),
        (["evaluate", "retrieval", "--rows", "all"], 2, "--rows needs --ablation"),
        (["evaluate", "retrieval", "--ablation", "--generated"], 2, "--ablation takes only --split"),
        (["add", "/nonexistent", "--origin", "unlabelled"], 2, "does not exist"),
    ],
)
def test_settings_that_cannot_be_meant_change_nothing(
    rgunit, labelled: Path, words: list[str], status: int, told: str
) -> None:
    answer = rgunit("-w", labelled, *words)
    assert answer.status == status
    assert told in answer.error
    left = rgunit("-w", labelled, "info", "--json").json
    assert (left["images"], left["runs"]) == (80, [])


@pytest.mark.parametrize(
    ("used", "told"),
    [
        ("Hat", "all 12 training images have the same labels of Hat: there is no other domain"),
        ("Glasses,Hat", "no training image is known that has Hat, so nothing can be learned of it"),
        ("Glasses,Smile", "no training image is known that lacks Smile"),
        ("Glasses,Beard", "no training image is known that has Beard"),
    ],
)
def test_one_domain_or_a_class_without_images_is_refused_and_leaves_no_run(
    rgunit, faces: Path, tmp_path: Path, used: str, told: str
) -> None:
    rows = (f"{i:06d}.png,train,{i % 2},0,1,\n" for i in range(12))
    (tmp_path / "table.csv").write_text(
        "image,split,Glasses,Hat,Smile,Beard\n" + "".join(rows) + "000012.png,test,0,1,0,1\n"
    )
    added = rgunit("-w", tmp_path / "w", "add", faces / "labelled", "--attributes", tmp_path / "table.csv")
    assert added.status == 0
    words = ("train", "translation", "--preset", "demo", "--set", "translation.batch=4", "--attributes-used", used)
    answer = rgunit("-w", tmp_path / "w", *words)
    assert answer.status == 1 and told in answer.error
    assert rgunit("-w", tmp_path / "w", "info", "--json").json["runs"] == []


def test_an_empty_domain_is_named(rgunit, faces: Path, tmp_path: Path) -> None:
    for domain, number in (("photo", 3), ("art", 4), ("sketch", None)):
        (tmp_path / "images" / domain).mkdir(parents=True)
        if number is not None:
            shutil.copy(faces / "labelled" / f"{number:06d}.png", tmp_path / "images" / domain)
    answer = rgunit("-w", tmp_path / "w", "add", tmp_path / "images")
    assert answer.status == 1 and "there is no image in sketch: add some or remove the folder" in answer.error
    assert not (tmp_path / "w").exists()


def test_a_flipped_byte_is_found_and_named(rgunit, labelled: Path, tmp_path: Path) -> None:
    path = tmp_path / "w"
    shutil.copytree(labelled, path)
    shard = next(file for file in sorted((path / "shards").iterdir()) if file.stat().st_size > 4000)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    answer = rgunit("-w", path, "index", "verify", "--json")
    assert answer.status == 1
    assert answer.json["ok"] is False
    assert any(shard.name in problem for problem in answer.json["problems"])
    assert shard.name in answer.json["error"]


def test_a_damaged_catalog_is_named_and_made_again(rgunit, labelled: Path, tmp_path: Path) -> None:
    path = tmp_path / "w"
    shutil.copytree(labelled, path)
    (path / "catalog.db").write_bytes(b"no database" * 1000)
    answer = rgunit("-w", path, "index", "verify", "--json")
    assert answer.status == 1
    assert answer.json["ok"] is False and "catalog.db" in answer.json["problems"][0]
    assert f"run `rgunit -w {path} index rebuild`" in rgunit("-w", path, "info").error
    assert rgunit("-w", path, "index", "rebuild", "--json").json["ok"] is True
    assert rgunit("-w", path, "info", "--json").json["images"] == 80


def test_what_add_took_wrongly_is_told_and_mended_with_update(rgunit, tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "d" / f"{number}.png", np.full((20, 20, 3), 40 * number, np.uint8))
    Image.fromarray(np.full((20, 20), 3000, np.uint16)).save(tmp_path / "d" / "3.png")
    rows = "0.png,train,1,1\n1.png,train,0,0\n2.png,Test,1,maybe\n3.png,dev,0,1\n"
    (tmp_path / "l.csv").write_text(f'image,split,A,"B, b"\n{rows}')
    first = rgunit("-w", tmp_path / "w", "--json", "add", tmp_path / "d", "--attributes", tmp_path / "l.csv").json
    assert len(first["notes"]) == 2 and 'column "B, b" is kept as text' in first["notes"][0]
    assert "--white-level 4095" in first["notes"][1] and first["dark"] == [str(tmp_path / "d" / "3.png")]
    (tmp_path / "l.csv").write_text(
        'image,split,A,"B, b"\n' + rows.replace("maybe", "").replace("1.png,train,0", "1.png,test,1")
    )
    add = ("-w", tmp_path / "w", "add", tmp_path / "d", "--attributes", tmp_path / "l.csv")
    told = rgunit(*add)
    assert told.status == 0 and "another value of A, split already" in told.out
    mended = rgunit(*add, "--update", "--white-level", 4095)
    assert mended.status == 0 and "4 images changed" in mended.out and '"B, b" of 4' in mended.out
    info = rgunit("-w", tmp_path / "w", "--json", "info").json
    assert info["attributes"] == ["A", "B, b"] and info["by_split"] == {"train": 1, "test": 2, "val": 1}
    assert info["fields"] == ["white_level"]


def test_pipes_in_the_place_of_files_are_refused_and_not_waited_for(rgunit, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write_image(tmp_path / "d" / "a.png", np.zeros((16, 16, 3), np.uint8))
    for name in ("labels.csv", "labels.json", "list_attr_celeba.txt", "my.toml"):
        os.mkfifo(tmp_path / name)
    for name in ("labels.csv", "labels.json", "list_attr_celeba.txt"):
        answer = rgunit("-w", tmp_path / "w", "add", tmp_path / "d", "--attributes", tmp_path / name)
        assert answer.status == 1 and "it is no regular file" in answer.error
    answer = rgunit("-w", labelled, "train", "translation", "--preset", "demo", "--config", tmp_path / "my.toml")
    assert answer.status == 2 and "it is no regular file" in answer.error
    assert not (tmp_path / "w").exists()

"""`import rgunit`: the whole job from Python, with pictures of every kind."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import rgunit
from tests.places import ROOT
from tests.translation.small import TINY, USED, filled
from translation.evaluation.config import EvaluationConfig

NESTED: dict[str, dict[str, object]] = {}
for _override in TINY:
    _name, _, _value = _override.partition("=")
    _section, _, _key = _name.partition(".")
    try:
        NESTED.setdefault(_section, {})[_key] = __import__("tomllib").loads(f"v = {_value}")["v"]
    except ValueError:
        NESTED.setdefault(_section, {})[_key] = _value


def test_importing_it_loads_no_torch() -> None:
    code = "import rgunit, sys; rgunit.methods; assert 'torch' not in sys.modules and 'faiss' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_collection_is_made_and_filled(drawn: Path, tmp_path: Path) -> None:
    with rgunit.Workspace.create(tmp_path / "w") as faces:
        assert isinstance(faces, rgunit.Workspace)
        added = faces.add(drawn / "labelled", attributes=drawn / "labelled" / "labels.csv")
        assert (added.added, added.duplicates, added.rejected, added.total) == (80, 0, [], 80)
        assert str(added).startswith("80 added, 0 there already, 0 refused: 80 in all")
        assert faces.add([drawn / "unlabelled"], origin="unlabelled").total == 92
    with rgunit.Workspace.open(tmp_path / "w") as again:
        assert again.add(drawn / "labelled", attributes=drawn / "labelled" / "labels.csv").duplicates == 80


def test_a_stage_is_trained_by_settings_in_a_dictionary(drawn: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    filled(workspace, drawn)
    made = rgunit.train(workspace, "translation", preset="demo", settings=NESTED, attributes_used=USED, device="cpu")
    assert (made.run, made.stage, made.steps, made.stopped) == ("r1", "translation", 4, False)
    assert made.metrics and "metrics" not in repr(made)
    with pytest.raises(rgunit.UsageError, match="no stage 'guide'"):
        rgunit.train(workspace, "guide")  # type: ignore[arg-type]
    with pytest.raises(rgunit.UsageError, match="has no option 'neighbors'"):
        rgunit.train(workspace, "translation", preset="demo", neighbors=3)
    with pytest.raises(rgunit.UsageError, match=r"unknown setting translation\.stepz"):
        rgunit.train(workspace, "translation", preset="demo", settings={"translation": {"stepz": 1}})


def test_pictures_of_every_kind_are_translated_and_asked_with(staged, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = Path(staged.images("split=test").paths[0])
    pixels = np.asarray(Image.open(path).convert("RGB"))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1
    translator = rgunit.Translator.open(staged, "r1", device="cpu")
    assert translator.attributes == tuple(USED)
    by_kind = [translator.translate(one, to="+Glasses", seed=3)[0] for one in (pixels, Image.fromarray(pixels), tensor)]
    for one in by_kind:
        assert np.array_equal(one.pixels, by_kind[0].pixels) and one.target["Glasses"] == 1
        assert one.image.size == (32, 32) and one.mask is not None and one.neighbours == ()
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "notes.txt").write_text("no picture")
    several = translator.translate([path, folder], to="+Glasses", samples=2)
    assert [str(one.source) for one in several] == [str(path)] * 2 + [str(folder / "a.png")] * 2
    assert not np.array_equal(several[0].pixels, several[1].pixels), "two samples differ"
    wide = np.pad(pixels, ((0, 0), (0, 18), (0, 0)), mode="edge")
    for given, box in (({}, (9, 0, 32, 32)), ({"box": (18, 0, 32, 32)}, (18, 0, 32, 32)), ({"fit": True}, None)):
        [one] = translator.translate(wide, to="+Glasses", **given)  # type: ignore[arg-type]
        assert one.pixels.shape == wide.shape and one.box == box
    with pytest.raises(rgunit.UsageError, match="box=1,2,32,9: the run translates squares"):
        translator.translate(wide, to="+Glasses", box=(1, 2, 32, 9))
    with pytest.raises(rgunit.UsageError, match=r"must be \[3, height, width\]"):
        translator.translate(tensor[None], to="+Glasses")
    with pytest.raises(rgunit.UsageError, match="needs an edit"):
        translator.translate(path)

    found = rgunit.query(staged.path, path, to="+Glasses", k=3)
    assert len(found) == 3 and found[0].rank == 1 and found.labels == "prefer"
    plain = rgunit.query(staged.path, path, to="+Glasses", k=3, labels="ignore")
    assert plain[0].distance <= plain[1].distance <= plain[2].distance
    listed, inside = rgunit.query(staged, [path, pixels], k=2), rgunit.query(staged, folder, k=2)
    assert [len(one) for one in (*listed, *inside)] == [2, 2, 2]
    same = rgunit.query(staged, tensor, k=1)
    assert same[0].image_id == staged.image_for_path(path), "a tensor is nobody's: it finds its own image"


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (torch.zeros(3, 32, 32) + 2, r"must lie in \[−1, 1\]"),
        (torch.full((3, 32, 32), torch.nan), r"must lie in \[−1, 1\]"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), r"must lie in \[−1, 1\]"),
        (None, "a picture"),
        (b"bytes", "not bytes"),
        ("", "path is empty"),
        (np.zeros((4, 4)), "must be uint8"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(staged, picture: object, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(rgunit.RgunitError, match=said):
        rgunit.Translator.open(staged, "r1", device="cpu").translate(picture, to="+Glasses")  # type: ignore[arg-type]
    with pytest.raises(rgunit.RgunitError, match=said):
        rgunit.query(staged, picture)  # type: ignore[arg-type]


def test_a_tensor_of_uint8_is_its_array(staged) -> None:  # type: ignore[no-untyped-def]
    pixels = np.asarray(Image.open(staged.images("split=test").paths[0]).convert("RGB")).copy()
    translator = rgunit.Translator.open(staged, "r1", device="cpu")
    given = (pixels, torch.from_numpy(pixels).permute(2, 0, 1))
    one, other = (translator.translate(picture, to="+Glasses")[0].pixels for picture in given)
    assert np.array_equal(one, other)


def test_what_cannot_be_meant_is_said_before_anything_is_done(staged, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    with pytest.raises(rgunit.RgunitError, match="holds no image that can be read"):
        rgunit.Translator.open(staged, "r1", device="cpu").translate(tmp_path / "empty", to="+Glasses")
    for minutes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(rgunit.UsageError, match="minutes must be a positive number"):
            rgunit.train(staged, "translation", preset="demo", minutes=minutes)
        with pytest.raises(rgunit.UsageError, match="minutes must be a positive number"):
            rgunit.run(staged, preset="demo", minutes=minutes)
    with pytest.raises(rgunit.UsageError, match="a seed must be a whole number"):
        rgunit.train(staged, "translation", preset="demo", seed=-1)
    with pytest.raises(rgunit.UsageError, match="'gpu' is no device"):
        rgunit.Translator.open(staged, device="gpu")
    with pytest.raises(rgunit.UsageError, match="settings are a dictionary"):
        rgunit.train(staged, "translation", preset="demo", settings=["a=1"])  # type: ignore[arg-type]
    with pytest.raises(rgunit.UsageError, match="has no option 'foo'"):
        rgunit.evaluate(staged, "retrieval", foo=1)
    with pytest.raises(rgunit.UsageError, match="unknown attribute 'Hut'"):
        rgunit.train(staged, "translation", preset="demo", attributes_used="Hut")
    assert [run.id for run in staged.runs()] == ["r1", "r2"]


def test_a_result_can_be_copied_and_sent_to_another_process() -> None:
    result = rgunit.Result({"k": 10})
    assert copy.deepcopy(result).k == pickle.loads(pickle.dumps(result)).k == 10


def test_results_are_the_commands_and_print_in_one_screen(staged) -> None:  # type: ignore[no-untyped-def]
    found = rgunit.evaluate(staged, "retrieval", device="cpu")
    assert found.k == 10 and found["attributes"] == found.attributes
    assert 3 < len(str(found).splitlines()) < 40 and "retrieval" in str(found).lower()
    with pytest.raises(AttributeError, match="no 'accuracy' here"):
        _ = found.accuracy
    small = EvaluationConfig(classifier_epochs=1, pairs=6, diversity_inputs=2, diversity_samples=2, bootstrap=100)
    arms = rgunit.evaluate(staged, "translation", config=small, device="cpu")
    assert arms.copy["n"] == 6 and "copy" in str(arms)
    with pytest.raises(rgunit.UsageError, match="no evaluation of 'index': there are retrieval, "):
        rgunit.evaluate(staged, "index")
    answer = rgunit.query(staged, staged.images().paths[0], to="+Glasses", k=50)
    assert len(str(answer).splitlines()) == 23 and str(answer).startswith("wanted: ") and "… and 30 more" in str(answer)
    assert len(repr(answer)) < 200 and "50 images found" in repr(answer)
    [made] = translated = rgunit.Translator.open(staged, "r1", device="cpu").translate(answer[0].path, to="+Glasses")
    assert str(translated) == str(made) and str(made).startswith("32 × 32: ") and "pixels" not in repr(made)


def test_every_evaluation_of_the_command_can_be_asked_for(staged, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from cli.evaluate import group, register
    from translation.evaluation.kinds import EXPERIMENTS, OF_WORKSPACE

    register(typer.Typer())
    assert {one.callback.__name__ for one in group.registered_commands if one.callback} == {*OF_WORKSPACE, *EXPERIMENTS}
    assert rgunit.evaluate(None, "transfer", seeds=[0, 1], minutes=2).seeds == 2, "without out nothing is trained"
    cost = rgunit.evaluate(None, "bias", settings={"translation": {"batch": 4}})
    assert "trainings: " in str(cost) and len(str(cost).splitlines()) < 40
    assert rgunit.evaluate(staged, "guidance", rows=[1], seeds=[0]).rows[0]["arms"] == 3
    for what, options, said in (
        ("guidance", {"row": 1}, "`evaluate guidance` has no option 'row'"),
        ("transfer", {"images": "few"}, "`evaluate transfer` images: "),
        ("parts", {"table": "init"}, "`evaluate parts` needs 'out'"),
        ("parts", {"table": "other", "out": tmp_path / "x"}, "there is no table 'other'"),
        ("judges", {"arms": {}}, "`evaluate judges` needs 'classifiers'"),
        ("judges", {"arms": {"guided": "r2"}, "classifiers": []}, "run r2 is no stage-3 run"),
        ("modalities", {"rows": ["x"]}, "no row is called 'x'"),
        ("unseen", {"out": tmp_path / "x", "preset": "demo"}, "trains every pair of its domains"),
        ("generator", {}, "generator"),
    ):
        with pytest.raises(rgunit.RgunitError, match=said):
            rgunit.evaluate(staged, what, **options)  # type: ignore[arg-type]


def test_methods_are_listed() -> None:
    names = {one.name: one for one in rgunit.methods()}
    assert names["cut"].presets == ("cut", "fastcut") and names["gmm_unit"].year == 2020
    assert len(str(rgunit.methods()).splitlines()) == len(names), "a line each"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("needs an edit (--to '+A') or a picture (--style-of)", "needs an edit (to='+A') or a picture (style_of)"),
        ("-k says how many, but --guidance is 0: leave -k out", "k says how many, but guidance is 0: leave k out"),
        ("--set guided.steps=3, or `rgunit run --minutes 3`", "settings guided.steps=3, or `rgunit run --minutes 3`"),
    ],
)
def test_messages_name_arguments_and_no_options(told: str, said: str) -> None:
    with pytest.raises(rgunit.UsageError) as error, rgunit._said():
        raise rgunit.UsageError(told)
    assert str(error.value) == said


def test_what_python_refuses_is_said_in_its_words(drawn: Path, tmp_path: Path) -> None:
    filled(tmp_path / "w", drawn)
    with rgunit.Workspace.open(tmp_path / "w") as workspace, pytest.raises(rgunit.UsageError) as error:
        workspace.add(drawn / "labelled", attributes=drawn / "labelled" / "labels.csv", split_by="who")
    assert "--" not in str(error.value) and str(error.value).startswith("split_by who: ")

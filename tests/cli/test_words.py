"""`index build --text-model` and `query --text`, by the command, from Python and over HTTP, without a retrieval run."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rgunit as library
from index_store.workspace import Workspace
from retrieval.text_models import Floats, Pixels, TextModel
from tests.cli.conftest import Command
from tests.retrieval.textmodels import colour_model
from translation.config import load_config
from translation.indexing import fill_index

pytest.importorskip("tokenizers", reason="tokenizers is not installed, so no words can be asked: make setup")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_model(tmp_path_factory.mktemp("models") / "colours")


@pytest.fixture
def path(labelled: Path, tmp_path: Path) -> Path:
    """A workspace in which nothing was trained; a test may change it."""
    shutil.copytree(labelled, tmp_path / "w")
    return tmp_path / "w"


def test_words_need_no_training(rgunit: Command, path: Path, model: Path, tmp_path: Path) -> None:
    refused = rgunit("-w", path, "query", "--text", "red")
    assert refused.status == 1 and "run `rgunit -w" in refused.error and "--text-model FOLDER" in refused.error
    built = rgunit("-w", path, "index", "build", "--text-model", model, "--json")
    assert built.json["words"] == 80 and built.json["encoders"][0]["name"].startswith("text.") and built.json["ok"]
    assert "nothing is embedded but for words" in built.err
    assert rgunit("-w", path, "index", "build", "--json").json["words"] == 0, "what is there stays"

    sheet, table = tmp_path / "found.png", tmp_path / "found.csv"
    asked = ("-w", path, "query", "--text", "a red thing", "-k", 4, "--where", "+Glasses")
    told = rgunit(*asked, "--json", "--grid", sheet, "--csv", table).json
    assert [one["rank"] for one in told["neighbours"]] == [1, 2, 3, 4] and told["text"] == "a red thing"
    assert all(one["attributes"]["Glasses"] == 1 for one in told["neighbours"])
    distances = [one["distance"] for one in told["neighbours"]]
    assert distances == sorted(distances)
    assert np.asarray(Image.open(sheet)).ndim == 3 and len(list(csv.reader(table.open()))) == 5
    shown = rgunit(*asked).out
    assert "wanted: “a red thing”" in shown and "not as wanted" not in shown

    found = library.query(path, text="a red thing", k=4, where="+Glasses")
    assert [one.image_id for one in found] == [one["image_id"] for one in told["neighbours"]]
    added = tmp_path / "new" / "red.png"
    added.parent.mkdir()
    Image.new("RGB", (32, 32), (250, 0, 0)).save(added)
    assert rgunit("-w", path, "add", added.parent, "--origin", "unlabelled").status == 0
    assert rgunit("-w", path, "index", "build", "--json").json["words"] == 1  # by the kept model
    assert rgunit("-w", path, "query", "--text", "red", "--json").json["neighbours"][0]["path"] == str(added)
    assert rgunit("-w", path, "index", "build", "--text-model", "none").status == 0
    assert "has no text model" in rgunit("-w", path, "query", "--text", "red").error


def test_pictures_are_embedded_in_batches_of_the_settings(
    path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    pictures = TextModel.pictures

    def told(self: TextModel, images: Pixels) -> Floats:
        seen.append(len(images))
        return pictures(self, images)

    monkeypatch.setattr(TextModel, "pictures", told)
    with Workspace.open(path) as workspace:
        fill_index(workspace, load_config("demo", overrides=["index.batch=32"]), text_model=model)
    assert seen[-3:] == [32, 32, 16] and sum(seen[:-3]) <= 2, "beside what looks whether the model works"


def test_words_over_http(path: Path, model: Path) -> None:
    pytest.importorskip("fastapi")
    from cli.serve.app import Served
    from cli.serve.bodies import QueryAsked
    from index_store.workspace import Workspace
    from retrieval.indexing import build_words
    from retrieval.text_models import keep_text_model

    with Workspace.open(path) as workspace:
        build_words(workspace, keep_text_model(workspace, model))
        asked = QueryAsked(text="red", k=3)
        served = Served(workspace, "cpu", waiting=4, warm=False, ready=lambda: None)
        answer = served.query(asked)
        assert (answer["text"], answer["run"], len(answer["neighbours"])) == ("red", None, 3), answer
    with pytest.raises(ValueError, match="to is of a picture"):
        QueryAsked(text="red", to="+Hat")
    with pytest.raises(ValueError, match="one of the two"):
        QueryAsked(k=3)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["query"], 2, "name a picture to ask with, or say what is to be seen: --text"),
        (["query", "--text", "red", "--to", "+Hat"], 2, "--to is of a picture, and none is named"),
        (["query", "--text", "red", "--content-weight", "0.5"], 2, "--content-weight is of a picture"),
        (["query", "--text", "red", "--labels", "require"], 2, "--labels require needs a label"),
        (["index", "build", "--text-model", "nowhere"], 2, "--text-model: there is no folder nowhere"),
        (["index", "build"], 1, "no retrieval run"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    rgunit: Command, labelled: Path, words: list[str], status: int, said: str
) -> None:
    refused = rgunit("-w", labelled, *words)
    assert refused.status == status and said in refused.error


def test_without_tokenizers_the_extra_is_named(
    rgunit: Command, path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    refused = rgunit("-w", path, "index", "build", "--text-model", model)
    assert refused.status == 1 and "pip install 'rgunit[text]'" in refused.error
    assert not (path / "models").exists()

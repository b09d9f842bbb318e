"""`query` and `similar` without torch: an import hook refuses it, and the answers are those that torch gives."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from retrieval.reading import FOLDER, GraphSearcher, open_searcher
from retrieval.retriever import Retriever
from tests.cli.conftest import Command
from tests.places import ROOT
from tests.retrieval.textmodels import colour_model

REFUSED = ("torch", "torchvision", "lightning_fabric", "sklearn", "scipy", "torchmetrics", "onnx", "transformers")
HOOK = f"""
import sys
class No:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {REFUSED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, No())
from cli.main import main
sys.exit(main(sys.argv[1:]))
"""

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    pytest.importorskip("onnx", reason="onnx is not installed, so no graphs were written: make setup")
    path = tmp_path_factory.mktemp("asked") / "workspace"
    shutil.copytree(template, path)
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "foreign.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return path


def refused(*words: object) -> subprocess.CompletedProcess[str]:
    """The command where torch cannot be imported."""
    command = [sys.executable, "-c", HOOK, *(str(word) for word in words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT)


@pytest.mark.parametrize(
    "asked",
    [
        {"edit": "+Glasses"},
        {},
        {"edit": "+Blond_Hair", "content_weight": 0.4},
        {"style_of": "other", "edit": "-Glasses", "labels": "ignore"},
    ],
)
def test_graphs_answer_as_torch_does(indexed: Path, picture: Path, asked: dict[str, object]) -> None:
    with Workspace.open(indexed) as workspace:
        if "style_of" in asked:
            asked = {**asked, "style_of": workspace.images("origin=real").paths[3]}
        graphs, torch = open_searcher(workspace), Retriever.open(workspace)
        assert isinstance(graphs, GraphSearcher) and graphs.fingerprint == torch.fingerprint
        ours, theirs = graphs.search(picture, **asked), torch.search(picture, **asked)
        assert [one.image_id for one in ours] == [one.image_id for one in theirs]
        assert ours.target == theirs.target
        np.testing.assert_allclose([one.distance for one in ours], [one.distance for one in theirs], rtol=1e-4)


def test_the_command_asks_without_torch(indexed: Path, picture: Path) -> None:
    done = refused("-w", indexed, "query", picture, "--to", "+Glasses", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["neighbours"]) == 10


def test_words_are_asked_without_torch(indexed: Path, picture: Path, tmp_path: Path, process: Command) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed, so no words can be asked: make setup")
    path = tmp_path / "w"
    shutil.copytree(indexed, path)
    model = colour_model(tmp_path / "colours")
    built = process("-w", path, "index", "build", "--text-model", model, "--json")
    assert built.status == 0 and built.json["words"] == built.json["vectors"], built.err
    for words in ((picture, "--to", "+Glasses", "--text", "red"), ("--text", "red")):
        done = refused("-w", path, "query", *words, "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert len(answer["neighbours"]) == 10 and answer["text"] == "red" and "text." in answer["plan"]


def test_what_needs_torch_says_so_in_one_line(indexed: Path, picture: Path) -> None:
    done = refused("-w", indexed, "translate", picture, "--to", "+Glasses")
    assert done.returncode == 1 and "needs torch, which is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_graphs_of_other_weights_or_changed_ones_are_passed_over(indexed: Path, tmp_path: Path) -> None:
    shutil.copytree(indexed, tmp_path / "w")
    with Workspace.open(tmp_path / "w") as workspace:
        run = workspace.run("r2")
        assert GraphSearcher.of(workspace, run) is not None
        graph = run.path / FOLDER / "retrieval.onnx"
        whole = graph.read_bytes()
        graph.write_bytes(whole[:-1] + b"\0")
        assert GraphSearcher.of(workspace, run) is None and isinstance(open_searcher(workspace), Retriever)
        graph.write_bytes(whole)
        checkpoint = workspace.run("r1").path / CHECKPOINT
        data = checkpoint.read_bytes()
        checkpoint.write_bytes(data.replace(b'\\"seconds\\"', b'\\"second_\\"', 1))  # as if trained on
        assert checkpoint.read_bytes() != data and GraphSearcher.of(workspace, run) is None


def test_the_server_searches_without_torch(indexed: Path) -> None:
    pytest.importorskip("uvicorn", reason="`pip install rgunit[serve]` brings uvicorn")
    command = [sys.executable, "-c", HOOK, "-w", str(indexed), "--json", "serve", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            port = int(json.loads(server.stdout.readline())["url"].rpartition(":")[2])

            def ask(path: str, told: object = None) -> tuple[int, bytes]:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                method, body = ("GET", None) if told is None else ("POST", json.dumps(told))
                connection.request(method, path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                return answer.status, answer.read()

            status, found = ask("/api/query", {"image_id": 3, "to": "+Glasses", "k": 4})
            assert status == 200 and len(json.loads(found)["neighbours"]) == 4, found
            for path in ("", "api/collection", "api/images", "api/images/3?size=32", "api/runs", "api/runs/r1"):
                assert ask(f"/{path}")[0] == 200, path
            for path, asked in (("/api/translate", {"image_id": 3, "to": "+Glasses"}), ("/api/map.html", None)):
                status, why = ask(path, asked)
                assert status == 501 and "not installed here: install requirements/run.txt" in json.loads(why)["error"]
        finally:
            server.terminate()
        assert server.stderr is not None and "Traceback" not in server.stderr.read()

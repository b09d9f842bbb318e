"""Runs are named, compared and deleted; what another one came from stays, and a kill leaves each whole or gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index_store import trash
from index_store.errors import RgunitError, UsageError
from index_store.runcare import compared, named_by
from index_store.workspace import GeneratedImage, Workspace
from tests.places import ROOT


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """r1 (translation), r2 (retrieval on r1), r3 (guided by both), r4 (an evaluation of r1 and r3), all with a file."""
    with Workspace.create(tmp_path / "w") as made:
        made.add_run("translation", "demo", {"config": {"data": {"size": 32}}, "seed": 0})
        made.add_run("retrieval", "demo", {"config": {"data": {"size": 32}}, "seed": 1, "translation_run": "r1"})
        made.add_run("guided", "demo", {"config": {}, "translation_run": "r1", "retrieval_run": "r2"})
        made.add_run("evaluate", "demo", {"config": {}, "runs": {"r1": 4, "r3": 4}})
        for run in made.runs():
            (run.path / "checkpoint.safetensors").write_bytes(b"x" * 1000)
            made.update_run(run.id, status="done", steps=4, summary={"metrics": {"loss": 0.5}})
    with Workspace.open(tmp_path / "w") as opened:
        yield opened


def folders(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in (workspace.path / "runs").iterdir())


def test_a_run_names_those_that_it_came_from_or_judged(workspace) -> None:
    runs = workspace.runs()
    assert [named_by(run, runs) for run in runs] == [[], ["r1"], ["r1", "r2"], ["r1", "r3"]]


def test_a_name_serves_as_the_id_does(workspace) -> None:
    assert workspace.rename_run("r2", "wide").name == "wide"
    assert workspace.run("wide").id == "r2" and workspace.runs()[1].name == "wide"
    for name, told in (("r7", "is no name"), ("a b", "is no name")):
        with pytest.raises(UsageError, match=told):
            workspace.rename_run("r1", name)
    with pytest.raises(UsageError, match="r2 is called 'wide'"):
        workspace.rename_run("r1", "wide")
    workspace.add_run("translation", "demo", {"config": {"sampling": {"embedding": "wide"}}})
    with pytest.raises(RgunitError, match="settings of r5 go by the name 'wide'"):
        workspace.rename_run("r2", "")
    assert named_by(workspace.run("r5"), workspace.runs()) == ["r2"]
    with Workspace.open(workspace.path) as again:
        assert again.run("wide").id == "r2"
    assert workspace.store().verify().ok


def test_what_differs_is_told_with_the_numbers(workspace) -> None:
    told = compared([workspace.run("r1"), workspace.run("r2")])
    assert told["runs"] == ["r1", "r2"]
    assert told["settings"] == {"seed": {"r1": 0, "r2": 1}, "translation_run": {"r1": None, "r2": "r1"}}
    assert told["metrics"]["loss"] == {"r1": 0.5, "r2": 0.5}


def test_a_run_that_another_came_from_is_kept(workspace) -> None:
    with pytest.raises(RgunitError, match=r"run r2 is what r3 came from or judged: delete it too .*delete r2 r3"):
        workspace.delete_runs(["r2"])
    with pytest.raises(RgunitError, match="there is no run 'r9'"):
        workspace.delete_runs(["r4", "r9"])
    assert len(folders(workspace)) == 4
    assert [run.id for run in workspace.delete_runs(["r2", "r3", "r4"])] == ["r4", "r3", "r2"]
    assert folders(workspace) == ["r1-translation"] and [run.id for run in workspace.runs()] == ["r1"]
    assert workspace.store().verify().ok


def test_a_number_is_never_used_again(workspace) -> None:
    workspace.delete_runs(["r4"])
    assert workspace.add_run("evaluate", "demo", {}).id == "r5"
    workspace.catalog.file.unlink()  # and the log knows it too
    with Workspace.open(workspace.path) as again:
        workspace.close()
        again.store().rebuild()
        assert [run.id for run in again.runs()] == ["r1", "r2", "r3", "r5"]
        again.update_run("r5", status="done")
        again.delete_runs(["r5"])
        assert again.add_run("evaluate", "demo", {}).id == "r6"


def test_a_folder_that_a_killed_start_left_empty_goes(workspace) -> None:
    for name in ("r5-guided", "r6-guided"):
        (workspace.path / "runs" / name).mkdir()
    (workspace.path / "runs" / "r6-guided" / "mine.txt").write_text("not ours to delete")
    workspace.set_meta("any", "change")
    assert folders(workspace) == ["r1-translation", "r2-retrieval", "r3-guided", "r4-evaluate", "r6-guided"]


def test_a_run_that_is_being_trained_is_kept(workspace) -> None:
    workspace.add_run("translation", "demo", {})
    with pytest.raises(RgunitError, match="r5 is being trained"):
        workspace.delete_runs(["r5"])
    with Workspace.open(workspace.path) as other, pytest.raises(RgunitError, match=r"being (written|trained)"):
        other.delete_runs(["r5"])
    workspace.close()  # as a kill would: nobody trains it any more
    with Workspace.open(workspace.path) as other:
        assert [run.id for run in other.delete_runs(["r5"])] == ["r5"]


def test_images_that_a_run_made_go_with_it_only_when_that_is_said(workspace) -> None:
    made = [GeneratedImage(np.zeros((32, 32, 3), np.uint8), -1, np.zeros(0, np.int8), "r4")]
    workspace.add_generated(made)
    folder = workspace.path / "images" / "generated" / "r4"
    with pytest.raises(RgunitError, match="r4 made 1 of the workspace's images: --images"):
        workspace.delete_runs(["r4"])
    assert len(list(folder.iterdir())) == 1
    workspace.delete_runs(["r4"], images=True)
    assert not folder.exists() and len(workspace.images()) == 0
    assert workspace.store().verify().ok and workspace.check_images() == []


@pytest.mark.parametrize(
    "step", ["pictures", pytest.param("renamed", marks=pytest.mark.slow), pytest.param("files", marks=pytest.mark.slow)]
)
def test_killed_at_any_instant_row_and_folder_agree(workspace, step: str) -> None:
    made = [GeneratedImage(np.zeros((32, 32, 3), np.uint8), -1, np.zeros(0, np.int8), "r4")]
    workspace.add_generated(made)
    workspace.close()
    code = f"""
import os, signal, shutil
from index_store import trash
from index_store.workspace import Workspace
die = lambda *words, **more: os.kill(os.getpid(), signal.SIGKILL)
w = Workspace.open({str(workspace.path)!r})
step = {step!r}
if step == "renamed": trash.sync_folder = die
whole = shutil.rmtree
def half(path, *words):
    if step == ("files" if path.name.endswith(".deleting") else "pictures"):
        next(path.glob("*.*")).unlink()
        die()
    whole(path, *words)
trash.shutil.rmtree = half
w.delete_runs(["r4"], images=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    assert done.returncode == -9, done.stderr
    with Workspace.open(workspace.path) as reader:
        assert [run.id for run in reader.runs()] == ["r1", "r2", "r3"], "gone for readers at once"
        assert reader.store().verify().ok
    with Workspace.open(workspace.path) as writer:
        writer.set_meta("any", "change")
        assert folders(writer) == ["r1-translation", "r2-retrieval", "r3-guided"]
        assert not (writer.path / "images" / "generated" / "r4").exists() and len(writer.images()) == 0
        assert writer.store().verify().ok and writer.add_run("evaluate", "demo", {}).id == "r5"
        assert trash.leaving(writer.path) == frozenset()

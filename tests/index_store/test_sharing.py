"""Where a store lies and who uses it: odd paths, folders that may only be read, workers that are handed a store."""

import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store import forking
from index_store.errors import ReadOnly, RgunitError
from index_store.store import IndexStore
from index_store.workspace import Workspace
from tests.catalogs import lose_catalog
from tests.reading import reading_only

EYE = np.eye(3, dtype=np.float32)


def fill(folder):
    """A workspace of three pictures with vectors and a run."""
    (folder / "d").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(np.full((20, 20, 3), 60 * number, np.uint8)).save(folder / "d" / f"{number}.png")
    with Workspace.create(folder / "w") as workspace:
        workspace.add_images(folder / "d", origin="unlabelled")
        workspace.put_vectors([1, 2, 3], EYE, encoder="e", fingerprint="f")
        workspace.add_run("translation", "demo", {"a": 1})
    return folder / "w"


@pytest.mark.parametrize(
    "name", ["100%", "%41", "what?mode=ro", "a#b", "a b  c", "ünï—日本", "[ab]*", "file:x", "a&b=c;d", "'q\"", "a\\b"]
)
def test_a_workspace_may_lie_at_any_path(tmp_path, name):
    path = fill(tmp_path / name)
    with Workspace.open(path) as workspace:
        assert len(workspace.images()) == 3 and workspace.load([1], 16).shape == (1, 16, 16, 3)
        assert workspace.store().search(EYE[1], k=1).ids.tolist() == [[2]]
        workspace.store().remove([3])
        workspace.store().compact()
        (path / "shards" / "x.h5.writing").write_bytes(b"half")
        assert workspace.store().verify().ok
    lose_catalog(path)
    with IndexStore.open(path) as store:
        store.rebuild()
        assert store.verify().ok and store.count() == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == [name]


def test_a_store_stays_where_its_path_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with IndexStore.create("s", dim=3, attributes=[]) as store:
        monkeypatch.chdir("other")
        store.add(EYE)
        assert store.verify().ok and store.search(EYE[0], k=1).ids.tolist() == [[1]]
    monkeypatch.chdir(tmp_path)
    with IndexStore.open("s") as store:
        monkeypatch.chdir("other")
        assert store.count() == 3
        store.add(EYE)
        store.compact()
    assert not list(Path().iterdir())


@pytest.fixture
def others(tmp_path):
    """A workspace of somebody else."""
    return fill(tmp_path / "others")


def test_a_workspace_that_may_only_be_read_is_read_and_not_called_damaged(others):
    with reading_only(others), Workspace.open(others) as workspace:
        assert len(workspace.images()) == 3 and workspace.runs()[0].id == "r1"
        assert workspace.load([1, 2], 16).shape == (2, 16, 16, 3)
        assert workspace.store().search(EYE[2], k=1).ids.tolist() == [[3]]
        assert workspace.store().verify().ok and workspace.check_images() == []
        for change in (
            lambda: workspace.set_meta("a", "b"),
            lambda: workspace.store().remove([1]),
            lambda: workspace.add_run("guided", "demo", {}),
            lambda: workspace.update_run("r1", steps=1),
            lambda: workspace.store().rebuild(),
            lambda: workspace.store().compact(),
        ):
            with pytest.raises(ReadOnly, match="may only be read") as error:
                change()
            assert "damaged" not in str(error.value) and "\n" not in str(error.value)
    assert not [file for file in others.iterdir() if "-" in file.name]


@pytest.mark.sqlite
def test_what_was_committed_and_not_folded_in_is_read_too(others, tmp_path):
    """A snapshot of a workspace in use: the last commits are in the log beside the catalog."""
    with Workspace.open(others) as workspace:
        workspace.set_meta("late", "yes")
        shutil.copytree(others, tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", others, dirs_exist_ok=True)
    with reading_only(others), Workspace.open(others) as workspace:
        assert workspace.meta("late") == "yes" and workspace.store().verify().ok
    (others / "catalog.db-shm").unlink()
    with reading_only(others), Workspace.open(others) as workspace, pytest.raises(RgunitError, match="copy the work"):
        workspace.meta("late")


def test_a_store_can_be_handed_to_workers(tmp_path, monkeypatch):
    path = fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    with Workspace.open("w") as workspace:
        workspace.set_meta("held", "yes")  # the lock stays here
        monkeypatch.chdir("/")
        for one in (workspace, workspace.store()):
            for context in ("fork", "forkserver"):
                with ProcessPoolExecutor(1, mp_context=get_context(context)) as pool:
                    assert pool.submit(_nearest, one).result(60) == [[2]]
        with pickle.loads(pickle.dumps(workspace)) as other:
            assert other.path == path and len(other.images()) == 3


def _nearest(one):
    with one:
        store = one.store() if isinstance(one, Workspace) else one
        return store.search(EYE[1], k=1).ids.tolist()


def fork_while_threads_search(path, tries):
    rng = np.random.default_rng(0)
    with IndexStore.create(path, dim=16, attributes=["a"]) as store:
        store.add(rng.normal(size=(3000, 16)), labels=rng.integers(0, 2, (3000, 1)), split="train")
    script = Path(__file__).with_name("forks.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path), str(tries)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.stdout == "0 hung, 0 wrong, searched: True\n", done


def test_forking_while_threads_search_never_hangs(tmp_path):
    fork_while_threads_search(tmp_path / "s", 20)


@pytest.mark.slow
def test_forking_while_threads_search_never_hangs_in_200_tries(tmp_path):
    fork_while_threads_search(tmp_path / "s", 200)


def test_a_fork_waits_for_native_calls_and_holds_up_those_that_come():
    entered, leave, order = threading.Event(), threading.Event(), []

    def inside():
        with forking.native():
            entered.set()
            leave.wait(10)
            order.append("left")

    thread = threading.Thread(target=inside)
    thread.start()
    entered.wait(10)
    timer = threading.Timer(0.2, leave.set)
    timer.start()
    with forking.native():  # the forking thread's own call is not waited for
        if not (child := os.fork()):
            os._exit(0 if order else 1)
    order.append("forked")
    thread.join()
    assert os.waitpid(child, 0)[1] == 0 and order == ["left", "forked"]


@pytest.mark.sqlite
def test_a_writer_that_forked_gives_the_lock_back_though_its_child_lives(tmp_path):
    with IndexStore.create(tmp_path / "s", dim=3, attributes=[]) as store:
        store.add(EYE)
        reader, writer = os.pipe()
        if not (child := os.fork()):
            os.read(reader, 1)  # lives until it is told
            try:
                with pytest.raises(RgunitError, match=re.escape(str(os.getppid()))):
                    store.add(EYE)
                os._exit(0)
            finally:
                os._exit(1)
        os.write(writer, b"x")
        assert os.waitpid(child, 0)[1] == 0
        if not (child := os.fork()):
            os.read(reader, 1)
            os._exit(0)
    with IndexStore.open(tmp_path / "s") as store:  # the child still lives
        store.add(EYE)
    os.write(writer, b"x")
    os.waitpid(child, 0)

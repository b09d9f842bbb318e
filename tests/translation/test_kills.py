"""`kill -9` at any moment of long work: the documented command goes on, and ends where unbroken work ends."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from index_store.lifetimes import end_with_parent
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from tests.translation.small import TINY, USED, filled, tiny
from tests.translation.training.line import assert_same
from translation.stages import train_translation
from translation.training.checkpoints import read_state

KILLS = 30
processes = multiprocessing.get_context("forkserver")
LOADED = ("cli.main", "translation.stages", "translation.indexing", "translation.methods.gmm_unit")
processes.set_forkserver_preload(list(LOADED))
pytestmark = pytest.mark.slow


def command(path: Path, words: tuple[str, ...], ready: Connection | None = None) -> None:
    """A command in a process of its own, which says when it begins."""
    import torch

    from cli.main import main

    end_with_parent()
    torch.set_num_threads(1)
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    if ready is not None:
        ready.send(None)
    sys.exit(main(["-w", str(path), "--device", "cpu", *words]))


def run(path: Path, *words: str) -> None:
    """A command that nobody kills."""
    process = processes.Process(target=command, args=(path, words))
    process.start()
    process.join()
    assert process.exitcode == 0


def kill(path: Path, words: tuple[str, ...], moment: Callable[[], bool], seconds: float) -> bool:
    """Start a command and kill it when `moment` has come, then so many seconds later; whether it still ran."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=command, args=(path, words, theirs))
    process.start()
    ours.recv()
    end = time.monotonic() + 120
    while process.is_alive() and not moment():
        assert time.monotonic() < end
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), process.exitcode
    return process.exitcode == -9


def check(path: Path) -> None:
    """Nothing is damaged."""
    with Workspace.open(path) as workspace:
        report = workspace.store().verify()
        assert report.ok, report.problems
        assert workspace.check_images() == []


def settings(stage: str, steps: int, *more: str) -> tuple[str, ...]:
    """The words of a training that can be resumed."""
    overrides = [*TINY, "training.checkpoint_every=2", "training.keep=2", f"{stage}.steps={steps}", *more]
    return ("train", stage, "--preset", "demo", "--resume", *(word for one in overrides for word in ("--set", one)))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """A workspace after stage 1."""
    path = tmp_path_factory.mktemp("first") / "w"
    filled(path, drawn)
    with Workspace.open(path) as workspace:
        train_translation(workspace, tiny(), attributes_used=USED, device="cpu")
    return path


def killed_training(start: Path, tmp_path: Path, stage: str, number: int, *more: str) -> None:
    """30 kills of a training, every third while a checkpoint is being written; then it equals an unbroken one."""
    killed, whole, rng = tmp_path / "killed", tmp_path / "whole", random.Random(number)
    shutil.copytree(start, killed)
    shutil.copytree(start, whole)
    folder = killed / "runs" / f"r{number}-{stage}"

    def reached() -> int:
        return int(read_state(folder / CHECKPOINT)["step"]) if (folder / CHECKPOINT).exists() else 0

    writing = 0
    for attempt in range(KILLS):
        before = reached()
        moments: tuple[Callable[[], bool], ...] = (
            lambda: True,
            lambda before=before: reached() > before,  # type: ignore[misc]
            lambda: any(folder.glob(".*")),
        )
        late = rng.random() * (2.0, 0.3, 0.004)[attempt % 3]
        assert kill(killed, settings(stage, 100_000, *more), moments[attempt % 3], late)
        writing += any(folder.glob(".*"))
    check(killed)
    assert writing, "no kill came while a checkpoint was being written"
    steps = reached() + 3
    run(killed, *settings(stage, steps, *more))
    run(whole, *settings(stage, steps, *more))
    assert_same(whole / "runs" / folder.name, folder)
    check(killed)
    assert not list(folder.glob(".*"))


def test_train_retrieval_killed_30_times(first: Path, tmp_path: Path) -> None:
    killed_training(first, tmp_path, "retrieval", 2)


def test_train_guided_killed_30_times(template: Path, tmp_path: Path) -> None:
    killed_training(template, tmp_path, "guided", 3)


def contents(path: Path) -> tuple[list[object], dict[str, np.ndarray]]:
    """What pictures a workspace has, and the vectors of each encoder in the order of ids."""
    with Workspace.open(path) as workspace:
        with workspace.catalog.reading() as connection:
            query = "SELECT id, sha256, split, origin, known, value, parent, run FROM images ORDER BY id"
            rows: list[object] = [tuple(row) for row in connection.exec_driver_sql(query)]
        store = workspace.store()
        vectors = {}
        for one in store.encoders():
            ids = np.sort(store.vector_ids(one.name, one.fingerprint))
            vectors[one.name] = np.column_stack([ids, store.vectors(ids, encoder=one.name)])
        return rows, vectors


def same(left: Path, right: Path) -> None:
    """Two workspaces hold the same pictures, and vectors that are the same up to the size of batches."""
    (rows, vectors), (others, theirs) = contents(left), contents(right)
    assert rows == others and vectors.keys() == theirs.keys()
    for name, matrix in vectors.items():
        np.testing.assert_allclose(matrix, theirs[name], atol=1e-5, err_msg=name)


def test_index_build_killed_30_times(template: Path, tmp_path: Path) -> None:
    killed, whole, rng = tmp_path / "killed", tmp_path / "whole", random.Random(5)
    shutil.copytree(template, killed)
    shutil.copytree(template, whole)
    kills, wanted = 0, 40
    while kills < KILLS:
        if kill(killed, ("index", "build", "--generated", str(wanted)), lambda: True, rng.random()):
            kills += 1
        else:
            wanted += 40  # it was done
        check(killed)
    for path in (killed, whole):
        run(path, "index", "build", "--generated", str(wanted))
        check(path)
    same(killed, whole)
    assert not list(killed.rglob("*.writing"))


def test_index_compact_killed_30_times(template: Path, tmp_path: Path) -> None:
    killed, whole, rng = tmp_path / "killed", tmp_path / "whole", random.Random(6)
    shutil.copytree(template, killed)
    shutil.copytree(template, whole)
    kills = number = 0
    while kills < KILLS:
        for path in (killed, whole):  # the same small changes to both
            with Workspace.open(path) as workspace:
                ids = workspace.images().ids
                for one in range(number, number + 3):
                    vectors = np.random.default_rng(one).normal(size=(len(ids), 4))
                    workspace.put_vectors(ids, vectors, encoder=f"e{one % 5}", fingerprint=f"{one:04d}")
        number += 3
        kills += kill(killed, ("index", "compact"), lambda: True, rng.random() * 0.5)
        check(killed)
    for path in (killed, whole):
        run(path, "index", "compact")
        check(path)
    with Workspace.open(killed) as one, Workspace.open(whole) as other:
        infos = [[(info.name, info.fingerprint, info.dim) for info in w.store().encoders()] for w in (one, other)]
        assert sorted(infos[0]) == sorted(infos[1])
        for name, fingerprint, _ in infos[0]:
            held = [w.store().vectors(one.images().ids, encoder=f"{name}@{fingerprint}") for w in (one, other)]
            assert np.array_equal(*held)
    assert len(list((killed / "shards").iterdir())) == 1 + len(infos[0])

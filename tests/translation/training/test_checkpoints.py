"""Which checkpoints a run keeps, that each is whole and can be gone on from, and that a kill at any time is nothing."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from index_store.errors import RgunitError
from index_store.lifetimes import end_with_parent
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from tests.translation.small import USED, filled, tiny
from tests.translation.training.line import Line, assert_same, settings
from translation.config import TrainingConfig
from translation.stages import train_translation
from translation.training.checkpoints import BEST, open_checkpoint, read_state, restore, save_checkpoint
from translation.training.loop import train
from translation.training.sessions import StageResult


def run_line(folder: Path, training: TrainingConfig, steps: int, *, resume: bool = False) -> Line:
    line = Line()
    train(line, folder=folder, training=training, steps=steps, resume=resume)
    return line


def kept(folder: Path) -> dict[str, int]:
    return {file.name: int(read_state(file)["step"]) for file in folder.glob("*.safetensors")}


def test_the_last_n_checkpoints_are_kept_and_no_more(tmp_path: Path) -> None:
    training = settings(checkpoint_every=2, keep=3)
    run_line(tmp_path, training, 9)
    older = {f"checkpoint-{step:08d}.safetensors": step for step in (6, 8, 9)}
    assert kept(tmp_path) == {CHECKPOINT: 9, **older}
    assert (tmp_path / CHECKPOINT).samefile(tmp_path / "checkpoint-00000009.safetensors"), "links, not copies"
    run_line(tmp_path, settings(checkpoint_every=2), 11, resume=True)
    assert kept(tmp_path) == {CHECKPOINT: 11}, "with keep=1 the others go"
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_the_best_by_a_measure_is_kept_over_sessions(tmp_path: Path) -> None:
    training = TrainingConfig(log_every=1, checkpoint_every=1, tensorboard=False, best="loss")
    run_line(tmp_path, training, 6)
    best = read_state(tmp_path / BEST)
    rows = [read_state(tmp_path / CHECKPOINT)["measured"]["loss"], best["measured"]["loss"]]
    assert rows[1] <= rows[0]
    unreached = {"step": 3, "measured": {"loss": -1.0}}  # the next session must not replace it
    save_checkpoint(tmp_path / BEST, networks=Line().networks, average={}, optimizers={}, state=unreached)
    run_line(tmp_path, training, 9, resume=True)
    assert kept(tmp_path) == {CHECKPOINT: 9, BEST: 3}


def test_the_best_is_the_one_with_the_lowest_value(tmp_path: Path) -> None:
    training = TrainingConfig(log_every=1, checkpoint_every=1, tensorboard=False, best="loss", keep=20)
    run_line(tmp_path, training, 12)
    values = {}
    for file in tmp_path.glob("checkpoint-*.safetensors"):
        state = read_state(file)
        values[state["step"]] = state["measured"]["loss"]
    assert len(values) == 12
    assert read_state(tmp_path / BEST)["step"] == min(values, key=lambda step: values[step])


def test_a_measure_that_is_not_logged_is_refused_at_the_first_log(tmp_path: Path) -> None:
    training = settings(log_every=2).model_copy(update={"best": "generator/cycel"})
    with pytest.raises(RgunitError, match=r"training\.best=generator/cycel is not measured here; what is: loss, other"):
        run_line(tmp_path, training, 10)
    assert kept(tmp_path) == {}
    train(Line(), folder=tmp_path, training=training, steps=4, warmup=4)  # may come with the steps after the warm-up


@pytest.mark.parametrize("name", ["best", "4"])
def test_any_kept_checkpoint_can_be_gone_on_from_bit_for_bit(tmp_path: Path, name: str) -> None:
    training = TrainingConfig(log_every=1, checkpoint_every=2, tensorboard=False, best="loss", keep=5)
    run_line(tmp_path, training, 8)
    before = load_file(tmp_path / CHECKPOINT)
    restore(tmp_path, name)
    first = read_state(tmp_path / CHECKPOINT)["step"]
    assert first == (4 if name == "4" else read_state(tmp_path / BEST)["step"])
    run_line(tmp_path, training, 8, resume=True)
    after = load_file(tmp_path / CHECKPOINT)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_checkpoint_that_was_not_kept_is_told_with_those_that_were(tmp_path: Path) -> None:
    with pytest.raises(RgunitError, match=r"no checkpoint 'best' beside the last one: none was kept"):
        restore(tmp_path, "best")
    run_line(tmp_path, settings(checkpoint_every=2, keep=2), 4)
    with pytest.raises(RgunitError, match="no checkpoint '3' beside the last one: there are 2, 4"):
        restore(tmp_path, "3")


# --- kills ---------------------------------------------------------------------------------------------------


def save_for_ever(path: Path) -> None:
    end_with_parent()
    network = nn.Linear(2000, 2000)
    for step in range(2, 1000):
        save_checkpoint(path, networks={"big": network}, average={}, optimizers={}, state={"step": step})


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_while_it_writes_the_old_checkpoint_is_whole_and_the_rest_is_cleaned(tmp_path: Path, kills: int) -> None:
    path, network = tmp_path / CHECKPOINT, nn.Linear(2000, 2000)
    save_checkpoint(path, networks={"big": network}, average={}, optimizers={}, state={"step": 1})
    left = 0
    for kill in range(kills):
        process = multiprocessing.get_context("forkserver").Process(target=save_for_ever, args=(path,))
        process.start()
        end = time.monotonic() + 120
        before = set(tmp_path.glob(".*"))
        while not set(tmp_path.glob(".*")) - before:
            assert process.is_alive() and time.monotonic() < end
        time.sleep(0.002 * (kill % 8))  # into the writing, the flush, the renaming
        process.kill()
        process.join()
        assert read_state(path)["step"] >= 1
        assert load_file(path)["networks.big.weight"].shape == (2000, 2000)
        left += len(list(tmp_path.glob(".*")))
    assert left, "no kill came while a checkpoint was being written"
    save_checkpoint(path, networks={"big": network}, average={}, optimizers={}, state={"step": 5})
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]


def session(path: Path, steps: int) -> StageResult:
    torch.set_num_threads(1)
    config = tiny(f"translation.steps={steps}", "training.checkpoint_every=2", "training.keep=2")
    with Workspace.open(path) as workspace:
        return train_translation(workspace, config, attributes_used=USED, device="cpu", resume=True)


def test_killed_at_random_moments_it_ends_where_an_unbroken_run_ends(tmp_path: Path, workspace: Workspace) -> None:
    killed, rng = tmp_path / "killed", random.Random(1)
    filled(killed, Path(workspace.images().paths[0]).parents[1])
    folder = killed / "runs" / "r1-translation"

    def reached() -> int:
        return int(read_state(folder / CHECKPOINT)["step"]) if (folder / CHECKPOINT).exists() else 0

    for _ in range(3):
        process = multiprocessing.get_context("forkserver").Process(target=session, args=(killed, 100_000))
        before, end = reached(), time.monotonic() + 120
        process.start()
        while reached() == before:
            assert process.is_alive() and time.monotonic() < end
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.join()
    steps = reached() + 3
    whole = train_translation(workspace, tiny(f"translation.steps={steps}"), attributes_used=USED, device="cpu")
    assert session(killed, steps).steps == whole.steps
    assert_same(whole.run.path, folder)
    assert len(list(folder.glob("*.safetensors"))) == 3, "the last, and two by their steps"
    assert not list(folder.glob(".*"))


def replace_for_ever(path: Path, sizes: tuple[int, ...]) -> None:
    end_with_parent()
    step = 0
    while True:
        for size in sizes:
            step += 1
            network = nn.Linear(size, 1, bias=False)
            nn.init.constant_(network.weight, size)
            state = {"step": step, "size": size}
            save_checkpoint(path, networks={"a": network}, average={}, optimizers={}, state=state)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    """safetensors opens a file twice; each size here is another file, so a mixture is seen."""
    path = tmp_path / CHECKPOINT
    writer = multiprocessing.get_context("spawn").Process(
        target=replace_for_ever, args=(path, (200, 400, 800)), daemon=True
    )
    writer.start()
    try:
        end = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        seen = set()
        for _ in range(400):
            with open_checkpoint(path) as (file, state):
                weight = file.get_tensor("networks.a.weight")
            assert weight.shape == (1, state["size"])
            assert weight.unique().tolist() == [state["size"]]
            seen.add(state["step"])
        assert len(seen) > 3
    finally:
        writer.kill()
        writer.join()


def test_a_file_cut_short_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, networks=Line().networks, average={}, optimizers={}, state={"step": 1})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RgunitError, match=r"no checkpoint of rgunit"):
        read_state(path)

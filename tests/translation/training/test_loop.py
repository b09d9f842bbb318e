"""The loop: what is saved is whole, what is resumed is exact, what goes wrong is told."""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from tests.catalogs import sealed_only
from tests.places import ROOT
from tests.translation.resume import same_after_a_stop
from tests.translation.small import TINY, USED, Notes, tiny
from tests.translation.steps import networks_of
from tests.translation.training.line import Line, settings
from translation import objectives
from translation.indexing import fill_index
from translation.progress import Progress
from translation.stages import train_guided, train_retrieval, train_translation
from translation.training import precision
from translation.training.checkpoints import load_networks, read_state, save_checkpoint
from translation.training.loop import Trained, train
from translation.training.metrics import RunLog, read_metrics
from translation.training.sessions import StageResult

# --- resume -------------------------------------------------------------------------------------------------


def test_stage_1_resumes_bit_for_bit(workspace: Workspace) -> None:
    config = ("translation.warmup=3", "translation.kl_warmup=15", "translation.halve_every=12")

    def run(steps: int, resume: bool) -> StageResult:
        made = tiny(*config, f"translation.steps={steps}")
        return train_translation(workspace, made, attributes_used=USED, seed=5, device="cpu", resume=resume)

    steps = [row["step"] for row in read_metrics(same_after_a_stop(run, 20))]
    assert steps == list(range(2, 21, 2))


def test_stage_2_resumes_bit_for_bit(staged: Workspace) -> None:
    def run(steps: int, resume: bool) -> StageResult:
        return train_retrieval(staged, tiny(f"retrieval.steps={steps}"), device="cpu", resume=resume)

    same_after_a_stop(run, 20)


def test_stage_3_with_retrieved_neighbours_resumes_bit_for_bit(staged: Workspace) -> None:
    def run(steps: int, resume: bool) -> StageResult:
        return train_guided(staged, tiny(f"guided.steps={steps}"), device="cpu", resume=resume)

    same_after_a_stop(run, 20)


def test_another_seed_trains_other_weights(workspace: Workspace) -> None:
    runs = [train_translation(workspace, tiny(), attributes_used=USED, seed=s, device="cpu").run for s in (0, 1)]
    first, second = (load_file(run.path / CHECKPOINT)["networks.generator.image.weight"] for run in runs)
    assert not torch.equal(first, second)


def test_resume_with_other_settings_lists_them(workspace: Workspace) -> None:
    train_translation(workspace, tiny(), attributes_used=USED, device="cpu")
    other = tiny("translation.batch=2", "translation.weights.cycle=3.0")
    with pytest.raises(RgunitError) as refused:
        train_translation(workspace, other, attributes_used=USED, device="cpu", seed=1, resume=True)
    message = str(refused.value)
    for difference in ("translation.batch: was 3, now 2", "cycle: was 10.0, now 3.0", "seed: was 0, now 1"):
        assert difference in message
    assert "\n" not in message
    with pytest.raises(RgunitError, match="attributes_used"):
        train_translation(workspace, tiny(), attributes_used=USED[:2], device="cpu", resume=True)
    assert [run.id for run in workspace.runs()] == ["r1"]
    logged_elsewhere = tiny("training.log_every=1")  # not what is trained: may change
    assert (
        train_translation(workspace, logged_elsewhere, attributes_used=USED, device="cpu", resume=True).run.id == "r1"
    )


def test_other_settings_of_later_stages_do_not_undo_stage_1(workspace: Workspace) -> None:
    train_translation(workspace, tiny(), attributes_used=USED, device="cpu")
    later = tiny("guided.neighbours=1", "retrieval.margin=0.3")
    assert train_translation(workspace, later, attributes_used=USED, device="cpu", resume="auto").run.id == "r1"


def test_auto_takes_the_quicker_precision_and_a_run_keeps_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(half: float, resume: bool = False) -> str:
        monkeypatch.setattr(precision, "_seconds", lambda kind: half if kind is torch.bfloat16 else 1.0)
        precision.faster_precision.cache_clear()
        config = tiny("training.precision=auto", f"translation.steps={4 if resume else 2}")
        done = train_translation(workspace, config, attributes_used=USED, device="cpu", resume=resume)
        return str(done.run.config["config"]["training"]["precision"])

    assert trained(half=2.0) == "32-true"
    assert trained(half=0.5, resume=True) == "32-true"
    assert trained(half=0.5) == "bf16-mixed"
    assert trained(half=0.95) == "32-true"  # hardly quicker
    precision.faster_precision.cache_clear()


def test_several_processes_on_cpus_do_not_choose_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda kind: 0.1 if kind is torch.bfloat16 else 1.0)
    monkeypatch.setattr(precision, "launched", lambda: (2, 1))
    precision.faster_precision.cache_clear()
    assert precision.faster_precision("cpu") == "32-true"
    precision.faster_precision.cache_clear()


def test_both_precisions_can_be_timed_here() -> None:
    assert precision._seconds(torch.float32) > 0 and precision._seconds(torch.bfloat16) > 0


def test_nothing_to_resume_starts_a_run_and_says_so(workspace: Workspace) -> None:
    notes = Notes()
    done = train_translation(workspace, tiny(), attributes_used=USED, device="cpu", resume=True, progress=notes)
    assert done.steps == 4
    assert any("nothing to resume" in note for note in notes.told)


def test_a_done_run_is_not_trained_again_but_lengthened_by_more_steps(workspace: Workspace) -> None:
    def run(steps: int) -> int:
        made = tiny(f"translation.steps={steps}")
        return train_translation(workspace, made, attributes_used=USED, device="cpu", resume="auto").steps

    assert run(4) == 4
    before = (workspace.run("r1").path / CHECKPOINT).stat().st_mtime_ns
    assert run(4) == 4
    assert (workspace.run("r1").path / CHECKPOINT).stat().st_mtime_ns == before
    assert run(6) == 6
    assert [one.id for one in workspace.runs()] == ["r1"]


# --- a task small enough to see through ----------------------------------------------------------------------


def run_line(folder: Path, line: Line, steps: int, *, resume: bool = False, minutes: float | None = None) -> Trained:
    training = settings()
    return train(line, folder=folder, training=training, steps=steps, resume=resume, minutes=minutes)


def test_a_loss_that_is_no_number_is_named_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    told = r"diverged in step 7: other is not finite; the last good checkpoint, of step 5, is kept: .*--resume"
    with pytest.raises(RgunitError, match=told) as failed:
        run_line(tmp_path, Line(bad=6), 40)  # steps 10 and 15 would be saved before step 20 is logged
    assert "loss" not in str(failed.value).split(":")[1].split(" is not")[0]
    assert read_state(tmp_path / CHECKPOINT)["step"] == 5


def test_of_what_a_bad_loss_spoils_only_the_loss_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, kl = itertools.count(1), objectives.kl_to_component

    def poisoned(*given: Tensor) -> Tensor:
        return kl(*given) * (math.nan if next(calls) == 3 else 1)

    monkeypatch.setattr(objectives, "kl_to_component", poisoned)
    config = tiny("translation.steps=8", "training.log_every=20", "training.checkpoint_every=2")
    with pytest.raises(RgunitError, match=r"^training diverged in step 3: generator/kl is not finite") as failed:
        train_translation(workspace, config, attributes_used=USED, device="cpu")
    assert "--resume --allow-changes --set translation.learning_rate=" in str(failed.value)
    (run,) = workspace.runs()
    assert (run.status, run.steps) == ("failed", 2) and read_state(run.path / CHECKPOINT)["step"] == 2
    slower = tiny("translation.steps=4", "translation.learning_rate=1e-5")
    again = train_translation(workspace, slower, attributes_used=USED, device="cpu", resume="changed")
    assert (again.run.id, again.steps) == ("r1", 4)


def test_a_run_of_which_nothing_was_kept_is_in_nobodys_way(workspace: Workspace) -> None:
    good = train_translation(workspace, tiny("translation.steps=2"), attributes_used=USED, device="cpu")
    wild = tiny("translation.learning_rate=1e30", "training.checkpoint_every=100", "translation.steps=9")
    with pytest.raises(RgunitError, match="nothing was kept yet: start again with a lower rate"):
        train_translation(workspace, wild, attributes_used=USED, device="cpu")
    assert [(run.id, run.status, run.empty) for run in workspace.runs()] == [
        ("r1", "done", False),
        ("r2", "failed", True),
    ]
    gone_on = train_translation(workspace, tiny("translation.steps=3"), attributes_used=USED, device="cpu", resume=True)
    assert (gone_on.run.id, gone_on.steps) == (good.run.id, 3)


def test_a_refused_change_leaves_the_run_as_it_was(workspace: Workspace) -> None:
    keep = ("training.keep=3", "training.checkpoint_every=2", "translation.steps=4")
    run = train_translation(workspace, tiny(*keep), attributes_used=USED, device="cpu").run
    before = run.config, (run.path / CHECKPOINT).read_bytes()
    too_large = tiny(*keep, "translation.batch=5000")
    for start in (None, "2"):
        with pytest.raises(RgunitError, match="a batch of 5000 is larger"):
            train_translation(workspace, too_large, attributes_used=USED, device="cpu", resume="changed", start=start)
    now = workspace.run(run.id)
    assert (now.config, (now.path / CHECKPOINT).read_bytes(), now.status) == (*before, "done")


def test_a_failed_run_with_a_checkpoint_is_gone_on_with_whatever_its_row_says(workspace: Workspace) -> None:
    train_translation(workspace, tiny("translation.steps=2"), attributes_used=USED, device="cpu")
    workspace.update_run("r1", status="failed", steps=0)
    again = train_translation(workspace, tiny("translation.steps=3"), attributes_used=USED, device="cpu", resume=True)
    assert (again.run.id, again.steps) == ("r1", 3)


def test_terms_that_add_up_to_no_number_are_named(tmp_path: Path) -> None:
    class Huge(Line):
        def step(self, step: int, batch: Tensor) -> dict[str, Tensor]:
            return super().step(step, batch) | {"other": torch.tensor(2e38)}

    with pytest.raises(RgunitError, match=r"diverged in step 2: other is not finite; nothing was kept"):
        train(Huge(), folder=tmp_path, training=settings(checkpoint_every=100), steps=20)


def test_of_many_pictures_the_newest_and_ever_fewer_of_the_older_stay(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, tensorboard=False)
    for step in range(100, 40_100, 100):
        log.picture(step, np.zeros((1, 1, 3), np.uint8))
    kept = sorted(int(file.stem) for file in (tmp_path / "samples").iterdir())
    assert len(kept) == 50 and kept[0] == 100 and kept[-20:] == list(range(38_100, 40_100, 100))
    assert 4_000 > max(np.diff(kept)) >= max(np.diff(kept[25:])), "none of the older time is lost altogether"


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(RgunitError, match="not finite"):
        run_line(tmp_path, Line(broken=9), 10)  # the last update breaks them: no loss has seen it
    assert read_state(tmp_path / CHECKPOINT)["step"] == 5
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / CHECKPOINT).values())


def test_a_stop_between_two_logs_leaves_the_log_as_it_is(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run_line(tmp_path / "whole", Line(), 40)
    stopped = run_line(tmp_path / "parts", Line(at=lambda s: s == 27 and os.kill(os.getpid(), signal.SIGINT)), 40)
    assert (stopped.steps, stopped.stopped) == (28, True)
    run_line(tmp_path / "parts", Line(), 40, resume=True)
    whole, parts = (read_metrics(tmp_path / name) for name in ("whole", "parts"))
    assert [(row["step"], row["loss"]) for row in parts] == [(row["step"], row["loss"]) for row in whole]


def test_rates_moments_and_average_are_in_the_checkpoint(tmp_path: Path) -> None:
    run_line(tmp_path, Line(), 8)
    saved = load_file(tmp_path / CHECKPOINT)
    assert saved["optimizers.line.0.step"].item() == 8
    assert saved["optimizers.line.0.exp_avg"].shape == (2, 3)
    assert not torch.equal(saved["average.line.weight"], saved["networks.line.weight"])
    assert read_metrics(tmp_path)[-1]["lr/line"] == pytest.approx(0.05)


def test_minutes_end_a_stage_and_count_over_sessions(tmp_path: Path) -> None:
    slow = Line(at=lambda step: time.sleep(0.01))
    first = run_line(tmp_path, slow, 100_000, minutes=0.2 / 60)
    assert 1 < first.steps < 1000 and not first.stopped
    again = run_line(tmp_path, slow, 100_000, minutes=0.2 / 60, resume=True)
    assert again.steps == first.steps


def test_progress_counts_to_where_the_minutes_end_a_stage(tmp_path: Path) -> None:
    totals: list[tuple[int, int]] = []

    class Watch(Progress):
        def step(self, done: int, total: int, seconds_left: float | None = None) -> None:
            totals.append((done, total))

    slow, given = Line(at=lambda step: time.sleep(0.01)), {"folder": tmp_path, "training": settings()}
    made = train(slow, steps=100_000, minutes=0.5 / 60, progress=Watch(), **given).steps  # type: ignore[arg-type]
    assert totals[-1][0] == made and made <= totals[made // 2][1] + made // 2 < 100_000, "not to 100,000"
    assert all(done <= total for done, total in totals)
    totals.clear()
    train(Line(), steps=made + 5, resume=True, progress=Watch(), **given)  # type: ignore[arg-type]
    assert {total for _, total in totals} == {made + 5}


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A full disk for this process: writes beyond `size` bytes fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path, line = tmp_path / CHECKPOINT, nn.Linear(300, 300)

    def save(step: int) -> None:
        save_checkpoint(path, networks={"line": line}, average={}, optimizers={}, state={"step": step})

    save(1)
    before = path.read_bytes()
    with no_file_larger_than(100_000), pytest.raises(RgunitError, match="cannot write the checkpoint"):
        save(2)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]
    with pytest.raises(RgunitError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "gone" / CHECKPOINT, networks={"line": line}, average={}, optimizers={}, state={})


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_broken_checkpoint_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(RgunitError, match="no checkpoint of rgunit") as refused:
        read_state(tmp_path / CHECKPOINT)
    assert "\n" not in str(refused.value)
    with pytest.raises(RgunitError, match="train that stage first"):
        read_state(tmp_path / "elsewhere")


def test_a_checkpoint_of_another_schema_or_size_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, networks=networks_of(tiny(), 3), average={}, optimizers={}, state={"step": 1})
    others = {
        "attributes": networks_of(tiny(), 4),
        "width": networks_of(tiny("networks.width=0.125"), 3),
        "size": networks_of(tiny("data.size=64"), 3),
        "configuration": networks_of(tiny("networks.content_blocks=2"), 3),
    }
    for networks in others.values():
        with pytest.raises(RgunitError, match=r"another configuration|other attributes, width or size") as refused:
            load_networks(path, networks, prefix="networks")
        assert "\n" not in str(refused.value)


# --- real signals --------------------------------------------------------------------------------------------

SESSION = """
import sys, torch
from index_store.workspace import Workspace
from translation.config import load_config
from translation.stages import train_translation
torch.set_num_threads(1)
path, resume, *overrides = sys.argv[1:]
with Workspace.open(path) as workspace:
    config = load_config("demo", overrides=overrides)
    done = train_translation(
        workspace, config, attributes_used={used!r}, device="cpu", resume=resume == "resume"
    )
    print(done.steps, done.stopped, done.run.status)
"""


@contextmanager
def session(path: Path, resume: str, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    endless = ("translation.steps=100000", "training.checkpoint_every=3", *overrides)
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION.format(used=list(USED)), str(path), resume, *TINY, *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ctrl_c_saves_and_a_killed_run_goes_on(workspace: Workspace) -> None:
    path = workspace.path
    workspace.close()
    folder = path / "runs" / "r1-translation"

    with session(path, "new") as process:
        wait_for(process, lambda: len(read_metrics(folder)) >= 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    steps, stopped, status = out.split()
    assert (stopped, status) == ("True", "stopped")
    assert read_state(folder / CHECKPOINT)["step"] == int(steps)

    with session(path, "resume") as process:
        wait_for(process, lambda: read_state(folder / CHECKPOINT)["step"] >= int(steps) + 3)
        process.kill()  # at any instant: the file is whole
        process.wait()
    killed = read_state(folder / CHECKPOINT)["step"]

    with Workspace.open(path) as again:
        config = tiny(f"translation.steps={killed + 3}")
        done = train_translation(again, config, attributes_used=USED, device="cpu", resume=True)
        assert (done.run.id, done.steps, done.run.status) == ("r1", killed + 3, "done")
    logged = [row["step"] for row in read_metrics(folder)]
    assert logged == sorted(set(logged)), "no step is logged twice"
    assert all(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())


def test_fewer_generated_images_then_more_never_repeat_one(staged: Workspace) -> None:
    """Called with more to make, `fill_index` goes on where it was: sources and targets are other ones."""
    result = fill_index(staged, tiny(), generated=9, device="cpu")
    assert result.generated == 4
    table = staged.images("origin=generated")
    assert len(table) == 9
    pictures = staged.load(table.ids, 32)
    assert len({picture.tobytes() for picture in pictures}) == 9
    assert fill_index(staged, tiny(), generated=9, device="cpu").generated == 0
    assert result.vectors == len(staged.images())


def test_translations_that_a_killed_build_had_sealed_are_counted_before_more_are_made(
    template: Path, tmp_path: Path
) -> None:
    """Else the same draws would be made twice."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for path in (killed, whole):
        shutil.copytree(template, path)
    sealed_only(killed, lambda workspace: fill_index(workspace, tiny(), generated=8, device="cpu"))
    made = []
    for path in (killed, whole):
        with Workspace.open(path) as workspace:
            fill_index(workspace, tiny(), generated=11, device="cpu")
            table = workspace.images("origin=generated")
            made.append(workspace.load(table.ids, 32).astype(int))
            assert len({picture.tobytes() for picture in made[-1]}) == 11 and workspace.store().verify().ok
    assert np.abs(made[0] - made[1]).max() <= 1  # on some processors batches of other sizes are rounded otherwise

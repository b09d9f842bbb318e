"""Jobs some at a time: their order, failures, and how the processes that do them are stopped."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from index_store.errors import RgunitError
from tests.processes import python, wait_for
from translation.evaluation.experiments.work import Children, Job, work_off

TRAINING = """
import signal, sys, time
from index_store.lifetimes import end_with_parent
def stop(*_):
    open(sys.argv[1] + "/saved", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, stop)
end_with_parent()
open(sys.argv[1] + "/begun", "w").close()
time.sleep(600)
"""
PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from translation.evaluation.experiments.work import Children, Job, interruptible, work_off
folders, children = [Path(word) for word in sys.argv[2:]], Children(2)
jobs = [Job((n,), partial(children.run, ["-c", sys.argv[1], str(f)], f / "log.txt")) for n, f in enumerate(folders)]
try:
    with interruptible():
        work_off(jobs, 2, children.interrupt)
except KeyboardInterrupt:
    sys.exit("stopped")
"""


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_a_program_asks_its_processes_and_waits_for_them(tmp_path: Path, asked: int) -> None:
    """Begun where SIGINT is ignored, as by a shell without job control: its processes cannot be asked by it."""
    folders = [tmp_path / name for name in ("guided", "unguided", "never")]
    for folder in folders:
        folder.mkdir()
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    with python("-c", PROGRAM, TRAINING, *folders, before=ignoring, stderr=subprocess.PIPE) as program:
        wait_for(lambda: all((folder / "begun").exists() for folder in folders[:2]))
        program.send_signal(asked)
        _, said = program.communicate(timeout=30)
        assert (program.returncode, said) == (1, "stopped\n")
    assert all((folder / "saved").exists() for folder in folders[:2])
    assert not list(folders[2].iterdir()), "nothing is begun after that"


def test_jobs_go_by_priority_and_may_bring_others() -> None:
    order: list[str] = []

    def work(name: str, *brings: Any) -> Any:
        def act() -> list[Any]:
            order.append(name)
            return list(brings)

        return act

    late = Job((2,), work("late"))
    work_off([late, Job((1,), work("first", Job((1, 5), work("brought"))))], 1, lambda: None)
    assert order == ["first", "brought", "late"]


def test_after_a_failure_nothing_else_is_begun_and_what_runs_may_end() -> None:
    done: list[str] = []
    failed = threading.Event()

    def fail() -> list[Any]:
        failed.set()
        raise RgunitError("it failed")

    def slow() -> list[Any]:
        failed.wait(10)
        done.append("slow")
        return []

    jobs = [Job((0,), slow), Job((1,), fail), Job((2,), lambda: done.append("never"))]
    with pytest.raises(RgunitError, match="it failed"):
        work_off(jobs, 2, lambda: None)
    assert done == ["slow"]


def test_a_training_that_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    children = Children(2)
    with pytest.raises(RgunitError, match=r"^no such run \(.*log\.txt\)$"):
        children.run(["-c", "import sys; print('begun'); sys.exit('error: no such run')"], tmp_path / "log.txt")


def test_after_ctrl_c_no_training_is_begun(tmp_path: Path) -> None:
    children = Children(2)
    children.interrupt()
    with pytest.raises(KeyboardInterrupt):
        children.run(["-c", f"open({str(tmp_path / 'begun')!r}, 'w')"], tmp_path / "log.txt")
    assert not (tmp_path / "begun").exists()

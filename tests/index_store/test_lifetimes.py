"""A process ends with the one that it was told to end with, however that one ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from index_store.errors import UsageError
from index_store.lifetimes import PARENT, end_with_parent
from tests.places import ROOT
from tests.processes import is_alive, python, wait_for

CHILD = """
import os, signal, sys, time
from index_store.lifetimes import end_with_parent
{first}
end_with_parent(grace=0.3)
print(os.getpid(), flush=True)
time.sleep(600)
"""
POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from index_store.lifetimes import end_with_parent
if __name__ == "__main__":
    end_with_parent()
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent, (os.getpid(),)) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""
PARENT_OF_IT = """
import subprocess, sys, time
from index_store.lifetimes import child_environment
subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=child_environment())
time.sleep(600)
"""


@pytest.mark.parametrize(
    "first",
    [
        "",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "del os.pidfd_open  # as on a system that has none",
    ],
    ids=["asked", "forced", "polled"],
)
def test_the_child_of_a_killed_process_ends_within_seconds(first: str) -> None:
    with python("-c", PARENT_OF_IT, CHILD.format(first=first), stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
        parent.wait()
    wait_for(lambda: not is_alive(child))


def test_a_worker_of_a_pool_that_waits_for_work_ends_with_a_killed_program(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    with python(tmp_path / "pool.py", stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    wait_for(lambda: not is_alive(worker))


def test_a_process_whose_parent_is_gone_already_ends_as_well() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), PARENT: str(gone.pid)}
    done = subprocess.run([sys.executable, "-c", CHILD.format(first="")], env=environment, timeout=30)
    assert done.returncode == -signal.SIGTERM


def test_without_a_number_in_the_variable_nothing_happens_or_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for told in ("", str(os.getpid())):
        monkeypatch.setenv(PARENT, told)
        end_with_parent()
    monkeypatch.setenv(PARENT, "make")
    with pytest.raises(UsageError, match="RGUNIT_PARENT is the number of the process to end with, not 'make'"):
        end_with_parent()

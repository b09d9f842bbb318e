"""Processes as tests see them: whose they are, whether they still run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.places import ROOT

WATCH = "from index_store.lifetimes import end_with_parent\nend_with_parent()\n"


@contextmanager
def python(*words: object, before: Sequence[str] = (), **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process of this Python with the packages of this checkout, started by `before`; killed at the end.

    Code of `-c` also ends with the tests, where these are killed.
    """
    if words[0] == "-c":
        words = ("-c", f"{WATCH}{words[1]}", *words[2:])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*before, sys.executable, *map(str, words)]
    program = subprocess.Popen(command, text=True, env=environment, **options)
    try:
        yield program
    finally:
        program.kill()
        program.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Return when the condition holds; a failure after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked about yet does not."""
    return _stat(process)[:1] not in ([], ["Z"])


def children_of(parent: int) -> list[int]:
    """The processes that a process started, those that run."""
    every = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
    return [process for process in every if is_alive(process) and _stat(process)[1:2] == [str(parent)]]


def _stat(process: int) -> list[str]:
    """State, parent and more of a process as Linux tells them; nothing where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []

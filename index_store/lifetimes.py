"""Processes that end with the program that started them, also where that one was killed.

A killed program can tell its children nothing, so each child watches it: `child_environment` hands the number of the
parent on, `end_with_parent` in the child waits for its end in a thread. (Linux can signal a child when its parent dies,
but goes by the thread that started it: a child of a thread pool would end with its thread.)
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time

from index_store.errors import UsageError

PARENT = "RGUNIT_PARENT"  # environment variable: the process to end with
GRACE = 30.0  # seconds for a training to save after the parent's end
POLL = 0.5  # seconds, where the system has no file that tells of a process's end

_watched: set[tuple[int, int]] = set()  # (watcher, parent): a forked child has no threads of its parent


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a process that is to end with this one, with `changes`."""
    return {**os.environ, PARENT: str(os.getpid()), **changes}


def end_with_parent(parent: int | None = None, grace: float = GRACE) -> None:
    """From now on this process ends soon after process `parent` did, however that ended.

    `parent` is by default the one in the variable RGUNIT_PARENT; without it, or where it is this process itself,
    nothing is done. This process gets SIGTERM then: a training saves and stops, everything else ends at once. What
    still runs `grace` seconds later is ended without another word. UsageError where the variable holds no number.
    """
    if parent is None:
        told = os.environ.get(PARENT, "")
        if not told:
            return
        if not told.isdecimal():
            raise UsageError(f"{PARENT} is the number of the process to end with, not {told!r}: unset it")
        parent = int(told)
    here = os.getpid()
    if parent == here or (here, parent) in _watched:
        return
    _watched.add((here, parent))
    threading.Thread(target=_end_after, args=(parent, grace), name="end with parent", daemon=True).start()


def _end_after(parent: int, grace: float) -> None:
    _wait_for_end(parent)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os._exit(128 + signal.SIGTERM)


def _wait_for_end(parent: int) -> None:
    """Return when there is no process of this number any more."""
    try:
        told = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # not Linux, or a sandbox that forbids it
        ours = os.getppid() == parent
        while _lives(parent) and (not ours or os.getppid() == parent):
            time.sleep(POLL)
        return
    try:
        waiting = select.poll()
        waiting.register(told, select.POLLIN)
        waiting.poll()
    finally:
        os.close(told)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""The writer's lock of a store: one writing process, named to whoever else asks.

The one idea: an operating-system lock on a file ends with its process, however that dies; the file's text is
only there to tell others who holds it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from index_store.errors import Locked, ReadOnly, RgunitError


def read_only(folder: Path) -> bool:
    """Whether this process may read a folder that is there, and not write into it."""
    effective = os.access in os.supports_effective_ids
    return folder.is_dir() and not os.access(folder, os.W_OK, effective_ids=effective)


def refuse_read_only(folder: Path) -> None:
    """ReadOnly for a folder that this process may not write into."""
    if read_only(folder):
        raise ReadOnly(
            f"{folder} may only be read (it is another user's, or its disk is read-only): copy it (`cp -r`) and change "
            "the copy"
        )


class LockLost(RgunitError):
    """The writer's lock ended while its holder was about to change something; nothing of that is committed by it."""

    def __init__(self) -> None:
        super().__init__("the connection was lost, and with it the turn to write")


class WriterLock:
    """An exclusive lock on `folder/lock`; `acquire` may be called again by its holder. `told`: what its holder does, in
    a message."""

    def __init__(self, folder: Path, wait: float = 0.0, told: str = "") -> None:
        self.file = folder / "lock"
        self.wait = wait
        self.told = told or f"{folder} is being written"
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock (a forked child's does not)."""
        return self._handle is not None

    def acquire(self) -> bool:
        """Take the lock, waiting up to `wait` seconds; return whether it was taken just now. Raises Locked."""
        if self.held:
            return False
        refuse_read_only(self.file.parent)
        deadline = time.monotonic() + self.wait
        try:
            handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RgunitError(f"{self.file} cannot be locked ({error.strerror}): delete it") from error
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                told = os.pread(handle, 64, 0).strip()
                holder = told.decode() if told.isdigit() else "unknown"  # anybody may have written the text
                os.close(handle)
                who = "this process" if holder == str(os.getpid()) else f"process {holder}"
                raise Locked(f"{self.told} by {who}: wait until it has finished, or stop it") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._handle = handle
        return True

    def kept(self) -> bool:
        """Whether it still is this object's: it is, once it is held."""
        return self.held

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # a child that was forked just now may not have closed its own yet
            os.close(self._handle)
            self._handle = None

    def after_fork(self) -> None:
        """In a forked child: the lock stays its parent's, and so ends with that."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

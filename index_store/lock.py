"""The writer's lock of a store: one writing process, named to whoever else asks.

The one idea: an operating-system lock on a file ends with its process, however that dies; the file's text is
only there to tell others who holds it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from index_store.errors import Locked


class WriterLock:
    """An exclusive lock on `folder/lock`; `acquire` may be called again by its holder."""

    def __init__(self, folder: Path, wait: float = 0.0) -> None:
        self.file = folder / "lock"
        self.wait = wait
        self._handle: int | None = None
        self._pid = 0

    @property
    def held(self) -> bool:
        """Whether this object of this process holds the lock (a forked child does not)."""
        return self._handle is not None and self._pid == os.getpid()

    def acquire(self) -> bool:
        """Take the lock, waiting up to `wait` seconds; return whether it was taken just now. Raises Locked."""
        if self.held:
            return False
        deadline = time.monotonic() + self.wait
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                holder = os.pread(handle, 64, 0).decode(errors="replace").strip() or "unknown"
                os.close(handle)
                who = "this process" if holder == str(os.getpid()) else f"process {holder}"
                raise Locked(
                    f"{self.file.parent} is being written by {who}: wait until it has finished, or stop it"
                ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._handle, self._pid = handle, os.getpid()
        return True

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._handle is not None:
            if self._pid == os.getpid():
                os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None

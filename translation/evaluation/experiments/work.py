"""Jobs done some at a time, by processes that stop when they are asked to and end with this one."""

from __future__ import annotations

import heapq
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from index_store.errors import RgunitError
from index_store.lifetimes import child_environment


@dataclass(order=True)
class Job:
    """What is to be done, the smallest `priority` first; it returns the jobs that it makes possible."""

    priority: tuple[int, ...]
    work: Callable[[], Iterable[Job]] = field(compare=False)


def work_off(jobs: Iterable[Job], at_once: int, interrupt: Callable[[], None]) -> None:
    """Do all jobs. After an error no other is begun, and it is raised when those under way have ended.

    KeyboardInterrupt calls `interrupt`, which is to end them; a second one calls it again.
    """
    waiting, running = list(jobs), set[Future[Iterable[Job]]]()
    heapq.heapify(waiting)
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.add(pool.submit(heapq.heappop(waiting).work))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    for job in future.result():
                        heapq.heappush(waiting, job)
        except KeyboardInterrupt:
            interrupt()
            try:
                wait(running)
            except KeyboardInterrupt:
                interrupt()
            raise


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt as Ctrl-C does, which does so even where this process was started to ignore it
    (a background job of a shell without job control, which would leave the trainings beside it running)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Children:
    """Processes of this Python, each with a log and its share of the cores; they end with this one."""

    def __init__(self, at_once: int) -> None:
        self.cores = max(1, (os.cpu_count() or 1) // at_once)
        self.alive: set[subprocess.Popen[bytes]] = set()
        self.guard = threading.Lock()
        self.stopped = False

    def run(self, words: Sequence[str], log: Path) -> None:
        """Wait for a process to end; RgunitError gives the last line that it wrote, where it failed.

        KeyboardInterrupt after `interrupt`: a copy may have been made meanwhile, no training is begun in it.
        """
        threads = os.environ.get("OMP_NUM_THREADS", str(self.cores))
        modules = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)  # the same as here, in the same order
        environment = child_environment(OMP_NUM_THREADS=threads, PYTHONPATH=modules)
        with log.open("ab") as lines, self.guard:
            if self.stopped:
                raise KeyboardInterrupt
            child = subprocess.Popen(
                [sys.executable, "-P", *words], stdout=lines, stderr=lines, env=environment, process_group=0
            )
            self.alive.add(child)
        status = child.wait()
        with self.guard:
            self.alive.discard(child)
            if self.stopped:
                raise KeyboardInterrupt
        if status:
            said = log.read_text(errors="replace").strip().splitlines() or [f"it ended with status {status}"]
            raise RgunitError(f"{said[-1].removeprefix('error: ')} ({log})")

    def interrupt(self) -> None:
        """Ask all to stop: a training keeps a checkpoint to go on from. SIGTERM, since they may ignore SIGINT."""
        with self.guard:
            self.stopped = True
            for child in self.alive:
                child.terminate()

"""Progress on stderr: a bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from cli.drawing import span
from translation.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

REFRESH = 0.2  # seconds between two drawings of the bar
LINE_EVERY = 30.0  # seconds between two lines where there is no terminal
QUICK = 2.0  # seconds; what takes less has no line there

NAMES = {
    "translation": "stage 1, translation",
    "retrieval": "stage 2, retrieval",
    "index": "index",
    "guided:retrieved": "stage 3, guided",
    "guided:random": "stage 3, random neighbours",
    "guided:none": "stage 3, unguided",
    "generator": "generator",
    "miner": "miner",
    "evaluate": "evaluation",
    "draw": "drawing faces",
    "classifier": "attribute classifier",
}


class Bars(Progress):
    """A context manager; the work calls `stage`, `step` and `note`."""

    def __init__(self, stage: str | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Shown

        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._shown = Shown(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[where]}"),
            TextColumn("{task.fields[left]}", style="dim"),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._started = self._told = time.monotonic()
        self._first = stage
        self._said: set[str] = set()

    def __enter__(self) -> Bars:
        if self._live:
            self._shown.start()
        if self._first:
            self.stage(self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(done=kind is None)
        if self._live:
            self._shown.stop()

    def stage(self, name: str) -> None:
        """Begin a stage; the one before it is done."""
        if name == self._name:
            return
        self._end(done=True)
        self._name, self._started, self._told = name, time.monotonic(), 0.0
        if self._live:
            self._task = self._shown.add_task(self._title, total=None, where="", left="")
        else:
            self._told = self._started - LINE_EVERY + QUICK

    def step(self, done: int, total: int, seconds_left: float | None = None) -> None:
        """Show how far the stage is; cheap enough to be called at every step."""
        now = time.monotonic()
        if now - self._told < (REFRESH if self._live else LINE_EVERY) and done < total:
            return
        if done >= total and not self._live:
            return
        self._told = now
        if seconds_left is None and max(1, total // 200) < done < total:  # the first ones wait for those beside them
            seconds_left = (now - self._started) / done * (total - done)
        left = f"{span(max(1.0, round(seconds_left)))} left" if seconds_left and done < total else ""
        if self._task is not None:
            self._shown.update(self._task, completed=done, total=total, where=f"{done}/{total}", left=left)
        elif not self._live:
            self._line(f"{self._title}: {done}/{total}{', ' + left if left else ''}")

    def note(self, text: str) -> None:
        """Show a line that stays; what was said already (of another stage) is not said again."""
        if text not in self._said:
            self._said.add(text)
            self._line(f"note: {text}")

    @property
    def _title(self) -> str:
        return NAMES.get(self._name, self._name)

    def _end(self, done: bool) -> None:
        """Take the bar away and leave a line with the stage's time."""
        if not self._name:
            return
        if self._task is not None:
            self._shown.remove_task(self._task)
            self._task = None
        seconds = time.monotonic() - self._started
        if done and (self._live or seconds > QUICK):
            self._line(f"{self._title}: {span(seconds)}")
        self._name = ""

    def _line(self, text: str) -> None:
        if self._live:
            self._console.print(text, style="dim", markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

"""What long work tells whoever shows it. The base class is silent; the command line draws bars from it."""

from __future__ import annotations

import os
import sys


def is_first() -> bool:
    """Whether this process is the one that talks: of those that `torchrun` started, the first."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK") == "0"


class Progress:
    """Called from the thread that works; every method returns at once."""

    def stage(self, name: str) -> None:
        """A stage begins: translation, retrieval, index, guided:retrieved, evaluate …"""

    def step(self, done: int, total: int, seconds_left: float | None = None) -> None:
        """`done` of `total` steps of the stage; seconds until its end where they can be told."""

    def note(self, text: str) -> None:
        """Something that the user should read, one line."""


class Lines(Progress):
    """Stages and notes, a line each, on stderr: for logs and scripts."""

    def stage(self, name: str) -> None:
        print(f"  {name}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"  note: {text}", file=sys.stderr, flush=True)

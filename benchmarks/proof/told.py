"""What long trainings and evaluations say while they run."""

from __future__ import annotations

import sys

from translation.progress import Progress


class Told(Progress):
    """Stages and notes, a line each, on stderr."""

    def stage(self, name: str) -> None:
        print(f"  {name}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"  note: {text}", file=sys.stderr, flush=True)

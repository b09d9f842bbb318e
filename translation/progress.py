"""What long work tells whoever shows it. The base class is silent; the command line draws bars from it."""

from __future__ import annotations


class Progress:
    """Called from the thread that works; every method returns at once."""

    def stage(self, name: str) -> None:
        """A stage begins: translation, retrieval, index, guided:retrieved, evaluate …"""

    def step(self, done: int, total: int, seconds_left: float | None = None) -> None:
        """`done` of `total` steps of the stage; seconds until its end where they can be told."""

    def note(self, text: str) -> None:
        """Something that the user should read, one line."""

"""What every command gets: the workspace, the seed, the device, and where its answer goes.

The one idea: a command computes a JSON object and hands it over with a way to draw it; `Settings.show` prints one or
the other, so that no command knows about `--json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from index_store.errors import RgunitError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from index_store.workspace import Workspace

DEFAULT_WORKSPACE = Path("workspace")
FLAGS = ("--json", "--debug")
VALUES = ("-w", "--workspace", "--seed", "--device")
TAKES_TEXT = ("--to", "--where", "--source", "--target", "--domain")  # their values may look like options


@dataclass(frozen=True)
class Settings:
    """The global options. `workspace` is None where nobody chose one; `out` is the real stdout."""

    workspace: Path | None = None
    chosen_here: bool = False  # by -w, not by the environment
    seed: int = 0
    device: str = "auto"
    json: bool = False
    debug: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)

    @property
    def folder(self) -> Path:
        """The workspace's folder."""
        return self.workspace or DEFAULT_WORKSPACE

    def open(self) -> Workspace:
        """Open the workspace; RgunitError says how to make one."""
        from index_store.workspace import Workspace

        return Workspace.open(self.folder)

    def show(self, payload: dict[str, Any], draw: Callable[[Console], None]) -> None:
        """Print the answer: the JSON object, or what `draw` makes of it."""
        if self.json:
            print(json.dumps(payload, ensure_ascii=False, allow_nan=False), file=self.out, flush=True)
        else:
            from cli.drawing import console_on

            draw(console_on(self.out))

    def fail(self, message: str, payload: dict[str, Any], draw: Callable[[Console], None]) -> Failed:
        """The exception for work that has an answer and yet failed: drawn now, or kept for the JSON object."""
        if not self.json:
            self.show(payload, draw)
        return Failed(message, payload)


class Failed(RgunitError):
    """A failure that comes with an answer, which the JSON object holds beside `error`."""

    def __init__(self, message: str, payload: dict[str, Any]) -> None:
        super().__init__(message)
        self.payload = payload


def globals_first(arguments: Sequence[str]) -> list[str]:
    """Move global options that were written after the command before it. UsageError where one lacks its value."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif rest and rest[-1] in TAKES_TEXT:
            rest.append(word)
        elif word in FLAGS or word.startswith(tuple(f"{name}=" for name in VALUES if name.startswith("--"))):
            front.append(word)
        elif word in VALUES:
            value = next(words, None)
            if value is None:
                raise UsageError(f"{word} needs a value: see `rgunit --help`")
            front += [word, value]
        else:
            rest.append(word)
    return front + rest

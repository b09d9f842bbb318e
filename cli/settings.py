"""What every command gets: the workspace, the seed, the device, and where its answer goes.

The one idea: a command computes a JSON object and hands it over with a way to draw it; `Settings.show` prints one or
the other, so that no command knows about `--json`.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from index_store.errors import RgunitError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from index_store.workspace import Workspace

DEFAULT_WORKSPACE = Path("workspace")
FLAGS = ("--json", "--debug")
VALUES = ("-w", "--workspace", "--catalog", "--vectors", "--seed", "--device")
TAKES_TEXT = ("--to", "--where", "--source", "--target", "--domain")  # their values may look like options


@dataclass(frozen=True)
class Settings:
    """The global options. `workspace` is None where nobody chose one; `out` is the real stdout."""

    workspace: Path | None = None
    chosen_here: bool = False  # by -w, not by the environment
    seed: int = 0
    device: str = "auto"
    json: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)

    @property
    def folder(self) -> Path:
        """The workspace's folder."""
        return self.workspace or DEFAULT_WORKSPACE

    def open(self) -> Workspace:
        """Open the workspace; RgunitError says how to make one."""
        from index_store.workspace import Workspace

        workspace = Workspace.open(self.folder)
        if self.device.startswith("cuda"):  # asked for: `auto` would take longer to begin than a query takes
            workspace.store().use(self.device)
        return workspace

    @contextmanager
    def made(self) -> Iterator[Workspace]:
        """The workspace, made where there is none; a folder that was made for it goes again if what was to come into it
        failed and nothing did."""
        import shutil

        from index_store.workspace import Workspace

        fresh = not self.folder.exists()
        with Workspace.ensure(self.folder) as workspace:
            try:
                yield workspace
            except BaseException:
                if fresh:
                    with suppress(RgunitError), workspace.catalog.held():  # another may have come to add to it, too
                        if workspace.store().count() == 0:
                            shutil.rmtree(workspace.path)
                raise

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


def named(message: str, arguments: Sequence[str]) -> str:
    """A message whose commands (`rgunit train …`) name the workspace that `arguments` (globals first) chose, if any."""
    words = dict(pairwise(arguments))
    chosen = words.get("-w") or words.get("--workspace")
    chosen = chosen or next((word.partition("=")[2] for word in arguments if word.startswith("--workspace=")), None)
    if chosen is None:
        return message

    def told(found: re.Match[str]) -> str:
        return found[0] if "--help" in found[1] else f"`rgunit -w {shlex.quote(chosen)} {found[1]}`"

    return re.sub(r"`rgunit ((?!methods|demo)[a-z][^`]*)`", told, message)


class Stopped(Failed):
    """Ctrl-C: what was done is kept, and `how` it goes on is said, the same way at every stage."""

    def __init__(self, how: str, payload: dict[str, Any] | None = None) -> None:
        super().__init__(f"stopped, what was done is kept: continue with {how}", payload or {})


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

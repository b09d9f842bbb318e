"""Files that are there whole or not at all: written under another name beside the target, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITING = ".writing"  # ending of what is being written, or was when its process was killed; the next one writes over it


@contextmanager
def whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A name beside `path`, whose folder is made, to write one file under; at the end that file becomes `path`.

    After an error or Ctrl-C nothing of it is left, and what was at `path` before is still there. `durable`: the content
    reaches the disk before it takes the name, and the name before this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + WRITING)
    try:
        yield part
        if durable:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """A file of these bytes."""
    with whole(path, durable=durable) as part:
        part.write_bytes(content)


def write_text(
    path: Path, text: str, *, newline: str | None = None, errors: str | None = None, durable: bool = False
) -> None:
    """A text file in UTF-8."""
    with whole(path, durable=durable) as part:
        part.write_text(text, encoding="utf-8", newline=newline, errors=errors)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """A JSON file, indented, with a newline at its end."""
    write_text(path, json.dumps(value, indent=1) + "\n", durable=durable)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

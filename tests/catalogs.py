"""Workspaces without their catalog, and copies, whatever engine the catalog is on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from index_store.marker import MARKER
from index_store.sqlite import FILE
from index_store.store import IndexStore
from index_store.workspace import Workspace


def lose_catalog(folder: Path) -> str:
    """Take a workspace's catalog away, or what leads to it; return the name of that file."""
    file = next(folder / name for name in (FILE, MARKER) if (folder / name).exists())
    file.unlink()
    return file.name


def copy_store(source: Path, target: Path) -> None:
    """Copy a store; one with a catalog on PostgreSQL gets a catalog of its own."""
    shutil.copytree(source, target)
    if (target / MARKER).exists():
        cells = {file.name: file.read_bytes() for file in (target / "cache").glob("*")}
        with IndexStore.open(target) as store:
            store.rebuild()
        for name, data in cells.items():
            (target / "cache" / name).write_bytes(data)


def sealed_only(folder: Path, change: Callable[[Workspace], object]) -> None:
    """Make a change to a workspace (with a SQLite file) as a writer does that is killed before the commit: its shards
    are there, the catalog does not know of them."""
    before = (folder / FILE).read_bytes()
    with Workspace.open(folder) as workspace:
        change(workspace)
    (folder / FILE).write_bytes(before)

"""Workspaces without their catalog, and copies, whatever engine the catalog is on."""

from __future__ import annotations

import shutil
from pathlib import Path

from index_store.marker import MARKER
from index_store.sqlite import FILE
from index_store.store import IndexStore


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

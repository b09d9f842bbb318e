"""Workspaces copied for a training beside others, and the runs that come home from them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from index_store.catalog import FILE as CATALOG
from index_store.runs import FILE as ABOUT
from index_store.workspace import RunRecord, Workspace


def copy_workspace(source: Path, target: Path, runs: Sequence[str]) -> None:
    """A workspace with the images, vectors and named runs of another one, whole or not at all; left if it is there."""
    if target.exists():
        return
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)

    def left(folder: str, names: list[str]) -> list[str]:
        if Path(folder) == source:
            return [name for name in names if name in ("cache", "lock") or name.startswith(CATALOG)]
        return [n for n in names if n.rpartition("-")[0] not in runs] if Path(folder) == source / "runs" else []

    shutil.copytree(source, part, symlinks=True, ignore=left)
    with closing(sqlite3.connect(source / CATALOG)) as old, closing(sqlite3.connect(part / CATALOG)) as new:
        old.backup(new)  # what a writer has in its log is part of it
    part.rename(target)


def adopt_run(home: Workspace, run: RunRecord, **changes: Any) -> RunRecord:
    """A run of another workspace of the same images, copied under an id of this one; `changes` of its configuration."""
    new = home.add_run(run.stage, run.preset, {**run.config, **changes})
    shutil.copytree(run.path, new.path, ignore=shutil.ignore_patterns(ABOUT), dirs_exist_ok=True)
    home.update_run(new.id, steps=run.steps, seconds=run.seconds, status=run.status, summary=run.summary)
    return home.run(new.id)

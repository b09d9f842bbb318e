"""Workspaces that experiments make: drawn faces, images whose labels are withheld in part, and copies."""

from __future__ import annotations

import csv
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.errors import RgunitError
from index_store.marker import VECTORS
from index_store.runs import FILE as ABOUT
from index_store.sqlite import FILE as CATALOG
from index_store.whole import WRITING
from index_store.workspace import ImageTable, RunRecord, Workspace
from translation.drawings import GROUPS, make_dataset


def drawn_workspace(path: Path, images: int, size: int) -> Workspace:
    """Drawn faces, the same in every call."""
    workspace = Workspace.ensure(path)
    if workspace.meta("drawn") is None:
        labelled, table, _ = make_dataset(path / "images" / "drawn", images=images, size=size, seed=0)
        workspace.add_images(labelled, attributes=table, groups=["|".join(group) for group in GROUPS])
        workspace.set_meta("drawn", str(images))
    return workspace


def source_workspace(given: Path | None, out: Path, images: int, size: int) -> Workspace:
    """The workspace that an experiment was given, or faces drawn into its folder of results."""
    return drawn_workspace(out / "drawn", images, size) if given is None else Workspace.open(given)


def quarter_workspace(path: Path, source: Workspace) -> Workspace:
    """The images of `source`, the labels of 3 in 4 training images withheld: those are unlabelled ones."""
    workspace = Workspace.ensure(path)
    if kept := workspace.meta("quarter"):
        if len(workspace.images("origin=real")) != int(kept):
            raise RgunitError(f"{path} has other labels than it began with: give another --out")
        return workspace
    table = source.images("split=train|val|test origin=real|unlabelled")  # no other split plays a part
    real = table.origin.astype(str) == "real"
    hidden = np.flatnonzero(real & (table.split.astype(str) == "train"))
    hidden = np.random.default_rng(0).permutation(hidden)[: len(hidden) - round(len(hidden) / 4)]
    labelled = np.setdiff1d(np.flatnonzero(real), hidden)
    links = _fill(workspace, table, labelled)
    workspace.add_images(links, origin="unlabelled")
    workspace.set_meta("quarter", str(len(labelled)))
    return workspace


def part_workspace(path: Path, table: ImageTable) -> Workspace:
    """The labelled images of a table of another workspace; left as it is where it was made of so many."""
    workspace = Workspace.ensure(path)
    if kept := workspace.meta("part"):
        if len(table) != int(kept):
            raise RgunitError(f"{path} was made of {kept} images, not of {len(table)}: give another --out")
        return workspace
    _fill(workspace, table, np.arange(len(table)))
    workspace.set_meta("part", str(len(table)))
    return workspace


def _fill(workspace: Workspace, table: ImageTable, labelled: NDArray[np.int64]) -> Path:
    """Links to the files of a table; its rows `labelled` become images, with labels, splits and texts. The folder."""
    links = workspace.path / "images" / "given"
    links.mkdir(parents=True, exist_ok=True)
    names = [f"{key:08d}{Path(file).suffix}" for key, file in zip(table.ids, table.paths, strict=True)]
    for name, file in zip(names, table.paths, strict=True):
        if not (links / name).exists():
            (links / name).symlink_to(file)
    labels = workspace.path / "images" / "labels.csv"
    with labels.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["image", *table.schema.names, "split", *table.fields])
        for row in labelled:
            bits = ["" if bit < 0 else int(bit) for bit in table.labels[row]]
            fields = [column[row] or "" for column in table.fields.values()]
            writer.writerow([names[row], *bits, table.split[row], *fields])
    groups = ["|".join(group) for group in table.schema.groups]
    workspace.add_images(links, attributes=labels, groups=groups)
    return links


def refuse_uncopied(source: Path) -> None:
    """RgunitError for a workspace that `copy_workspace` cannot copy."""
    if not (source / CATALOG).exists():
        raise RgunitError(f"{source} has its catalog on PostgreSQL, which cannot be copied: use one with {CATALOG}")


def copy_workspace(source: Path, target: Path, runs: Sequence[str]) -> None:
    """A workspace with the images, vectors and named runs of another one, whole or not at all; left if it is there."""
    if target.exists():
        return
    refuse_uncopied(source)
    part = target.with_name(target.name + WRITING)
    shutil.rmtree(part, ignore_errors=True)

    def left(folder: str, names: list[str]) -> list[str]:
        if Path(folder) == source:
            return [name for name in names if name in ("cache", "lock", VECTORS) or name.startswith(CATALOG)]
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

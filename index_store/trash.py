"""Runs that are being deleted, with the pictures that they made.

The one idea: the run's folder is renamed first. From then on the run is gone for every reader, and whoever writes next
takes away its pictures, its row and its files: a kill at any instant leaves a run whole or none.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from index_store import forking, places
from index_store.features import Record
from index_store.models import IMAGES, RUNS
from index_store.whole import sync_folder

if TYPE_CHECKING:
    from index_store.catalog import Catalog

SUFFIX = ".deleting"
_RUN = re.compile(r"r([0-9]{1,15})-[a-z]+", re.ASCII)
_NAME = re.compile(rf"(r([0-9]{{1,15}}))-[a-z]+{re.escape(SUFFIX)}", re.ASCII)


def leaving(folder: Path) -> frozenset[str]:
    """The names that the folders of those runs of a workspace had that are being deleted."""
    return frozenset(path.name.removesuffix(SUFFIX) for path, _, _ in _found(folder))


def put(run: Path) -> None:
    """Rename the folder of a run, made if it is lost: the run is being deleted."""
    run.mkdir(exist_ok=True)
    run.rename(run.with_name(run.name + SUFFIX))
    sync_folder(run.parent)


def empty(catalog: Catalog) -> None:
    """End what `put` began. Only for the writer, once what others left has been recovered."""
    for path, name, number in _found(catalog.folder):
        if not path.with_name(path.name.removesuffix(SUFFIX)).exists():
            _forget(catalog, name, number)
        shutil.rmtree(path)
        sync_folder(path.parent)
    _drop_unnamed(catalog)


def _drop_unnamed(catalog: Catalog) -> None:
    """Take away the empty folder of a run whose making was killed before its row was there."""
    with catalog.reading() as connection:
        numbers = set(connection.execute(sa.select(RUNS.c.number)).scalars())
    for path in (catalog.folder / "runs").glob("r*-*"):
        name = _RUN.fullmatch(path.name)
        if name and int(name[1]) not in numbers and path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def _forget(catalog: Catalog, name: str, number: int) -> None:
    """The pictures of a run, in the catalog and on the disk, and its row."""
    with catalog.reading() as connection:
        made = sa.select(IMAGES.c.id).where((IMAGES.c.run == name) & (IMAGES.c.origin == "generated"))
        ids = connection.execute(made).scalars().all()
    if ids:
        catalog.write(Record("remove", {}, {"ids": np.array(sorted(ids), np.int64)}))
    pictures = places.inside(catalog.folder, "images", "generated", name)
    if pictures.is_dir() and not pictures.is_symlink():
        shutil.rmtree(pictures)
    with forking.native(), catalog.database.transaction() as connection:
        connection.execute(sa.delete(RUNS).where(RUNS.c.number == number))


def _found(folder: Path) -> list[tuple[Path, str, int]]:
    """The folders, with the ids and numbers of their runs."""
    runs = folder / "runs"
    names = sorted(name for name in os.listdir(runs) if name.endswith(SUFFIX)) if runs.is_dir() else []  # noqa: PTH208
    found = [(runs / name, _NAME.fullmatch(name)) for name in names]
    return [(path, name[1], int(name[2])) for path, name in found if name and path.is_dir() and not path.is_symlink()]

"""Where a catalog's tables live: a SQLite file in the workspace, or a schema of a PostgreSQL database by URL.

The one idea: `Catalog` decides what is written and when; a `Database` says how this engine is connected to, locked,
watched and put in order. A workspace on PostgreSQL names its schema in `catalog.json`, never a server: which server is
asked is for the user to say (`--catalog`, RGUNIT_CATALOG), not for a folder that somebody may have sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from index_store import sqlite
from index_store.errors import RgunitError
from index_store.marker import MARKER

URL = "RGUNIT_CATALOG"
"""The environment variable that names the PostgreSQL database of catalogs."""

Tables = Callable[[sa.Connection], None]


class Lock(Protocol):
    """The writer's lock."""

    wait: float

    @property
    def held(self) -> bool:
        """Whether this process has it."""

    def acquire(self) -> bool:
        """Take it; return whether it was taken just now. Raises Locked and ReadOnly."""

    def kept(self) -> bool:
        """Whether it still is this process's; one that ends with a connection may not be."""

    def release(self) -> None:
        """Give it back, if it is held."""

    def after_fork(self) -> None:
        """In a forked child: it stays the parent's."""


class Database(Protocol):
    """An engine of a catalog. `file` is what messages call it; with `turns` writers take the lock for each change
    instead of until they close."""

    file: Path
    read_only: bool
    turns: bool

    @property
    def lock(self) -> Lock:
        """The writer's lock."""

    @property
    def absent(self) -> str:
        """What to say where there are shards and no tables."""

    def missing(self) -> str | None:
        """Why there can be no tables, None if there may be."""

    def connect(self) -> AbstractContextManager[sa.Connection]:
        """One consistent view to read."""

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """One transaction to change things, committed at its end; durable then."""

    def version(self) -> tuple[int, ...]:
        """Numbers that differ after a commit of any process."""

    def failed(self, error: sa.exc.DatabaseError) -> RgunitError:
        """What a failure means: CatalogDamaged, or that the engine cannot be reached."""

    def tables(self, connection: sa.Connection) -> set[str]:
        """The names of the tables."""

    def migrate(self) -> None:
        """Bring the tables to this version; the lock is held."""

    def problems(self, connection: sa.Connection) -> list[str]:
        """What the engine itself finds wrong."""

    def replace(self, fill: Tables) -> None:
        """Put new tables, which `fill` fills, in the place of what is there, whole or not at all."""

    def checkpoint(self) -> None:
        """Fold what the engine keeps beside its tables into them."""

    def erase(self) -> str:
        """Write the tables anew, so that nothing is left of what was deleted; what is kept of it, "" for nothing."""

    def close(self) -> None:
        """Close every connection and give the lock back."""

    def after_fork(self) -> None:
        """In a forked child: connections of its own."""


def there(folder: Path) -> bool:
    """Whether a folder has a catalog of any kind."""
    return (folder / sqlite.FILE).exists() or (folder / MARKER).exists()


def second(folder: Path) -> RgunitError:
    """The error for a database that is named for a folder which has its catalog in SQLite."""
    return RgunitError(
        f"{folder} has its catalog in {sqlite.FILE}: leave --catalog out; to move it to PostgreSQL, put that file "
        "elsewhere and run `rgunit index rebuild` with --catalog"
    )


def database(folder: Path, wait: float, url: str | None) -> Database:
    """The database of a folder's catalog; RgunitError where it is not said, or said twice."""
    told = url or os.environ.get(URL) or None
    own, marked = (folder / sqlite.FILE).exists(), (folder / MARKER).exists()
    if own and marked:
        raise RgunitError(f"{folder} has two catalogs, {sqlite.FILE} and {MARKER}: delete the one that is not its own")
    if own and url:
        raise second(folder)
    if marked and told is None:
        raise RgunitError(f"the catalog of {folder} is on PostgreSQL: say which server by --catalog URL or {URL}")
    if told is None or own:
        return sqlite.SqliteDatabase(folder, wait)
    from index_store.postgres import PostgresDatabase

    return PostgresDatabase(folder, wait, told)

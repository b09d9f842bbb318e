"""A catalog in a SQLite file of the workspace: a write-ahead log, every commit flushed to the disk."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from index_store import places
from index_store.errors import CatalogDamaged, RgunitError
from index_store.lock import WriterLock, read_only
from index_store.migrating import migrate
from index_store.whole import WRITING, sync_folder

FILE = "catalog.db"
_COMPUTES = re.compile(r"\bVIRTUAL\b|\bGENERATED\b|\bAS\s*\(", re.IGNORECASE)  # tables that a query would run
_OF_PARENTS: list[object] = []


class SqliteDatabase:
    """See `databases.Database`. Its writer holds the lock, a file of the workspace, until it closes."""

    turns = False
    absent = "its schema number is missing"

    def __init__(self, folder: Path, wait: float) -> None:
        places.refuse_journal(folder / f"{FILE}-journal")
        self.file = folder / FILE
        self.read_only = read_only(folder)
        self.lock = WriterLock(folder, wait)
        self.engine = connect(self.file, read_only=self.read_only)
        self._watch: tuple[int, sqlite3.Connection] | None = None
        self._seen: tuple[int, ...] = ()

    def after_fork(self) -> None:
        """Its parent's connections are kept, for closing them would tell SQLite things that are not so."""
        _OF_PARENTS.append((self.engine, self._watch))
        self.engine, self._watch = connect(self.file, read_only=self.read_only), None
        self.lock.after_fork()

    def close(self) -> None:
        """The write-ahead log is folded in, before others write."""
        if self._watch:
            self._watch[1].close()
            self._watch = None
        self.engine.dispose()
        self.lock.release()

    def missing(self) -> str | None:
        return None if self.file.exists() else "it is missing"

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        if self.read_only:
            self.version()
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        with self.engine.begin() as connection:
            yield connection

    def failed(self, error: sa.exc.DatabaseError) -> RgunitError:
        """Of a catalog that may only be read also what that needs."""
        why = str(error.orig)
        if self.read_only and "unable to open" in why:
            why = "its log is without its index, which cannot be made here: copy the workspace and use the copy"
        return CatalogDamaged(self.file, why)

    def version(self) -> tuple[int, ...]:
        """Far cheaper than a query."""
        try:
            return self._version_by_files() if self.read_only else self._version_by_sqlite()
        except FileNotFoundError:
            raise CatalogDamaged(self.file, "it is missing") from None
        except sqlite3.DatabaseError as error:
            raise CatalogDamaged(self.file, str(error)) from error

    def _version_by_sqlite(self) -> tuple[int, ...]:
        place = self.file.stat().st_ino
        if self._watch is None or self._watch[0] != place:
            if self._watch:  # the file was replaced by a rebuild
                self.engine.dispose()
            self._watch = (place, open_database(self.file))
        return place, int(self._watch[1].execute("PRAGMA data_version").fetchone()[0])

    def _version_by_files(self) -> tuple[int, ...]:
        """Of a catalog that may only be read; one that is read as it lies is opened again after a change."""
        told: list[int] = []
        for file in (self.file, self.file.with_name(FILE + "-wal")):
            with suppress(FileNotFoundError):
                found = file.stat()
                told += [found.st_ino, found.st_size, found.st_mtime_ns]
        if not told:
            raise FileNotFoundError
        if self._seen and tuple(told) != self._seen:
            self.engine.dispose()
        self._seen = tuple(told)
        return self._seen

    def tables(self, connection: sa.Connection) -> set[str]:
        return set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())

    def migrate(self) -> None:
        migrate(self.engine)

    def problems(self, connection: sa.Connection) -> list[str]:
        lines = connection.exec_driver_sql("PRAGMA integrity_check(5)").scalars()
        return [str(line) for line in lines if line != "ok"]

    def checkpoint(self) -> None:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def erase(self) -> str:
        """A new file's worth of pages, and an empty log. RgunitError where a reader keeps the log."""
        with closing(open_database(self.file)) as connection:
            connection.isolation_level = None
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("VACUUM")
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise RgunitError(f"{self.file}: another process keeps reading: end it, and give the same command again")
        return ""

    def replace(self, fill: Callable[[sa.Connection], None]) -> None:
        """A new file, renamed."""
        temporary = self.file.with_name(FILE + WRITING)
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
        engine = connect(temporary)
        migrate(engine)
        with engine.begin() as connection:
            fill(connection)
        engine.dispose()
        self.engine.dispose()
        for suffix in ("-wal", "-shm"):
            self.file.with_name(FILE + suffix).unlink(missing_ok=True)
        temporary.replace(self.file)
        sync_folder(self.file.parent)


def connect(file: Path | None, *, read_only: bool = False) -> sa.Engine:
    """Return an engine on a SQLite file (or in memory): write-ahead log, every commit flushed to the disk."""
    if file is None:
        engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    else:
        place = file  # by a creator: in a URL `%`, `?` and `#` would mean something else
        engine = sa.create_engine(
            "sqlite://", creator=lambda: open_database(place, read_only=read_only), poolclass=sa.pool.QueuePool
        )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**28)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA busy_timeout = 60000")
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        for kind, sql in connection.execute("SELECT type, sql FROM sqlite_master"):
            if kind not in ("table", "index") or _COMPUTES.search(sql or ""):
                raise sqlite3.DatabaseError("it holds more than tables")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def open_database(file: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a SQLite file, whatever characters its path has.

    One that may only be read has no shared memory for a log to be read by: without a log it is read as it lies.
    """
    if not read_only:
        return sqlite3.connect(file, check_same_thread=False, timeout=60)
    log = file.with_name(file.name + "-wal")
    how = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    return sqlite3.connect(f"{file.as_uri()}?{how}", uri=True, check_same_thread=False, timeout=60)


def insert(connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows."""
    marks = ", ".join("?" * len(columns))
    connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", list(map(tuple, rows)))


def last_id(connection: sa.Connection) -> int:
    """The largest id that was ever given, 0 if none was."""
    found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'images'").scalar()
    return int(found or 0)


def reserve(connection: sa.Connection, last: int) -> None:
    """Make sure that no id up to `last` is ever given again."""
    found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'images'").scalar()
    if found is None:
        connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('images', ?)", (last,))
    elif int(found) < last:
        connection.exec_driver_sql("UPDATE sqlite_sequence SET seq = ? WHERE name = 'images'", (last,))

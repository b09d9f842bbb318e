"""The catalog: SQLite as the commit record of a store, changed only by applying sealed shards.

The one idea: `write` seals a record, then one transaction applies it. Opening for writing applies what a
killed writer had sealed but not committed, so the log of shards alone can restore the catalog.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from index_store import features, forking, places, seal
from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.features import Record, Sealed
from index_store.lock import WriterLock, read_only
from index_store.replay import apply, connect, migrate, open_database

HEAD = "0001"
FILE = "catalog.db"
SHARDS = "shards"
HALF_FILES = (f"{FILE}*", f"{SHARDS}/*", "cache/*.cells.h5", "runs/*/run.json", "images/generated/*/*")


_OF_PARENTS: list[object] = []


class CatalogDamaged(RgunitError):
    """A catalog that SQLite cannot read."""

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"{file} is damaged ({why}): run `rgunit index rebuild`")
        self.why = why


@contextmanager
def damage_named(file: Path) -> Iterator[None]:
    """Around making something of what a catalog holds: CatalogDamaged where a value is not of its kind."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise CatalogDamaged(file, str(error).partition("\n")[0] or type(error).__name__) from error


class Catalog:
    """A folder's catalog and shards. Threads may share it; one process at a time writes."""

    def __init__(self, folder: Path, wait: float = 0.0) -> None:
        self.folder = folder = folder.absolute()  # whatever folder the process changes to
        self.file = folder / FILE
        self.shards = folder / SHARDS
        self.lock = WriterLock(folder, wait)
        self.guard = threading.RLock()
        self.step: features.Step = lambda name: None
        self.read_only = read_only(folder)
        self.engine = connect(self.file, read_only=self.read_only)
        forking.remember(self)
        self._watch: tuple[int, sqlite3.Connection] | None = None
        self._seen: tuple[int, ...] = ()

    def after_fork(self) -> None:
        """In a forked child: locks and connections of its own. Its parent's are kept, for closing them would tell
        SQLite things that are not so."""
        _OF_PARENTS.append((self.engine, self._watch))
        self.guard = threading.RLock()
        self.engine, self._watch = connect(self.file, read_only=self.read_only), None
        self.lock.after_fork()

    def shard(self, name: object) -> Path:
        """The place of a shard that the catalog names; CatalogDamaged where that is no shard's name."""
        try:
            return places.shard(self.shards, name)
        except places.Unsafe as error:
            raise CatalogDamaged(self.file, str(error)) from error

    def sealed_files(self) -> list[tuple[int, Path]]:
        """The shards that lie in the folder, with their places in the log; files of other names are not looked at."""
        found = [(places.shard_seq(path.name), path) for path in self.shards.glob("*" + features.SUFFIX)]
        return sorted((seq, path) for seq, path in found if seq)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether the folder holds a store (a lost catalog can be restored from the shards)."""
        return (folder / FILE).exists() or any((folder / SHARDS).glob("*" + features.SUFFIX))

    @classmethod
    def create(cls, folder: Path, *, unfinished_ok: bool = False) -> Catalog:
        """Make an empty catalog; FileExistsError if there is one. `unfinished_ok`: one without any change is taken
        over (its making was killed)."""
        if cls.exists(folder) and not (unfinished_ok and cls._untouched(folder)):
            raise FileExistsError(f"{folder} already holds a store: open it, or choose another folder")
        places.refuse_links(folder)
        places.refuse_journal(folder / f"{FILE}-journal")
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        catalog = cls(folder)
        catalog.migrate()
        return catalog

    @classmethod
    def _untouched(cls, folder: Path) -> bool:
        """Whether a folder's catalog has seen no change and there is no shard."""
        if any((folder / SHARDS).glob("*" + features.SUFFIX)):
            return False
        catalog = cls(folder)
        try:
            if catalog.revision() is None:
                return True
            with catalog.reading() as connection:
                return catalog.sequence(connection) == 0
        finally:
            catalog.close()

    @classmethod
    def open(cls, folder: Path, wait: float = 0.0) -> Catalog:
        """Open a catalog, migrating an older one; RgunitError if there is none.

        A damaged catalog opens too, so that it can be verified and rebuilt; reading it raises CatalogDamaged.
        """
        if not cls.exists(folder):
            raise RgunitError(f"no store at {folder}: make one first")
        places.refuse_links(folder)
        places.refuse_journal(folder / f"{FILE}-journal")
        catalog = cls(folder, wait)
        with suppress(CatalogDamaged):
            revision = catalog.revision()
            if revision is None or revision < HEAD:
                catalog.migrate()
            elif revision != HEAD:
                raise RgunitError(f"{catalog.file} was made by a newer rgunit (schema {revision}): upgrade rgunit")
        return catalog

    def revision(self) -> str | None:
        """Return the schema's number, None for a catalog whose making was interrupted."""
        with self.reading() as connection:
            tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())
            if "alembic_version" not in tables:
                if "images" in tables or any(self.shards.glob("*" + features.SUFFIX)):
                    raise CatalogDamaged(self.file, "its schema number is missing")
                return None
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return None if found is None else str(found)

    def migrate(self) -> None:
        """Bring the tables to this version, under the writer's lock."""
        self.lock.acquire()
        migrate(self.engine)

    def close(self) -> None:
        """Close the connections (the write-ahead log is folded in) and give the lock back."""
        with self.guard:
            if self._watch:
                self._watch[1].close()
                self._watch = None
            self.engine.dispose()
            self.lock.release()

    # Reading

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One consistent view of the committed state; raises CatalogDamaged where SQLite cannot read it."""
        if not self.file.exists():
            raise CatalogDamaged(self.file, "it is missing")
        if self.read_only:
            self.version()
        try:
            with forking.native(), self.engine.connect() as connection:
                yield connection
        except sa.exc.DatabaseError as error:
            raise CatalogDamaged(self.file, self._why(error)) from error

    def _why(self, error: sa.exc.DatabaseError) -> str:
        """What SQLite says; of a catalog that may only be read also what that needs."""
        if self.read_only and "unable to open" in str(error.orig):
            return "its log is without its index, which cannot be made here: copy the workspace and use the copy"
        return str(error.orig)

    def version(self) -> tuple[int, ...]:
        """Return numbers that differ after a commit of any process; far cheaper than a query."""
        if self.read_only:
            return self._version_by_files()
        try:
            place = self.file.stat().st_ino
            with forking.native():
                if self._watch is None or self._watch[0] != place:
                    if self._watch:  # the file was replaced by a rebuild
                        self.engine.dispose()
                    self._watch = (place, open_database(self.file))
                return place, int(self._watch[1].execute("PRAGMA data_version").fetchone()[0])
        except FileNotFoundError:
            raise CatalogDamaged(self.file, "it is missing") from None
        except sqlite3.DatabaseError as error:
            raise CatalogDamaged(self.file, str(error)) from error

    def _version_by_files(self) -> tuple[int, ...]:
        """See `version`: of a catalog that may only be read; one that is read as it lies is opened again after that."""
        told: list[int] = []
        for file in (self.file, self.file.with_name(FILE + "-wal")):
            with suppress(FileNotFoundError):
                found = file.stat()
                told += [found.st_ino, found.st_size, found.st_mtime_ns]
        if not told:
            raise CatalogDamaged(self.file, "it is missing")
        if self._seen and tuple(told) != self._seen:
            self.engine.dispose()
        self._seen = tuple(told)
        return self._seen

    def schema(self, connection: sa.Connection | None = None) -> AttributeSchema:
        """Return attribute names and groups."""
        if connection is None:
            with self.reading() as own:
                return self.schema(own)
        names = connection.exec_driver_sql("SELECT name FROM attributes ORDER BY position").scalars()
        groups = connection.exec_driver_sql("SELECT members FROM attribute_groups ORDER BY position").scalars()
        with damage_named(self.file):
            return AttributeSchema(tuple(names), tuple(tuple(json.loads(group)) for group in groups))

    def sequence(self, connection: sa.Connection) -> int:
        """Return the place of the last committed change in the log."""
        with damage_named(self.file):
            return int(self.setting(connection, "sequence") or 0)

    def setting(self, connection: sa.Connection, key: str) -> str | None:
        """Return a setting."""
        found = connection.exec_driver_sql("SELECT value FROM settings WHERE key = ?", (key,)).scalar()
        return None if found is None else str(found)

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a change and what it is decided by: no other process, and no other thread, changes anything."""
        self.begin()
        with self.guard:
            yield

    def begin(self) -> None:
        """Become the writer: take the lock, then repair what a killed writer left. Raises Locked."""
        if self.lock.acquire():
            self.recover()

    def clean(self) -> None:
        """Delete the files that a killed writer left half written."""
        for pattern in HALF_FILES:
            for stale in self.folder.glob(pattern + features.TEMPORARY):
                if not stale.is_dir():
                    stale.unlink(missing_ok=True)

    def recover(self) -> int:
        """Delete half-written files, apply sealed shards that were not committed; return how many were applied."""
        self.clean()
        with self.reading() as connection:
            sequence = self.sequence(connection)
            listed = connection.exec_driver_sql("SELECT file, seq FROM shards").all()
        with damage_named(self.file):
            named = {str(file) for file, _ in listed}
            first = min((int(seq) for _, seq in listed), default=0)
        applied = 0
        for seq, path in self.sealed_files():
            if path.name in named:
                continue
            if seq < first:
                path.unlink()  # merged by a compaction that was committed
            if seq <= sequence:
                continue  # not for a writer to judge: verify says what is wrong
            try:
                record = features.read(path, check=True, vectors=False)
            except features.ShardDamaged:
                continue  # the next write takes its name
            if record.header.get("base"):
                path.unlink()  # a compaction that was not committed: the shards that it read are still there
            elif seq == sequence + 1:
                self.commit([(seq, record, Sealed(path.name, path.stat().st_size, seal.digest_of(path)))])
                sequence, applied = seq, applied + 1
        return applied

    def write(self, *records: Record) -> int:
        """Seal records and commit them together; return the last one's place in the log.

        Durable on return, or nothing has changed: RgunitError says why (a full disk, for one).
        """
        self.begin()
        with self.guard:
            self.step("begin")
            with self.reading() as connection:
                seq = self.sequence(connection)
            parts: list[tuple[int, Record, Sealed]] = []
            try:
                for record in records:
                    seq += 1
                    self.step("seal")
                    parts.append((seq, record, features.seal(self.shards, seq, record, self.step)))
                self.step("commit")
                self.commit(parts)
            except BaseException as error:
                self._discard(parts)
                if isinstance(error, OSError):
                    raise RgunitError(
                        f"cannot write {self.shards}: {error.strerror or error}; nothing was changed"
                    ) from error
                if isinstance(error, sa.exc.OperationalError):
                    raise RgunitError(f"cannot write {self.file}: {error.orig}; nothing was changed") from error
                raise
            self.step("committed")
            return seq

    def _discard(self, parts: Sequence[tuple[int, Record, Sealed]]) -> None:
        """Delete sealed records that were not committed (an interrupt may come just after the commit)."""
        with suppress(CatalogDamaged):
            with self.reading() as connection:
                sequence = self.sequence(connection)
            for seq, _, sealed in parts:
                if seq > sequence:
                    (self.shards / sealed.file).unlink(missing_ok=True)

    def commit(self, parts: Sequence[tuple[int, Record, Sealed]]) -> None:
        """Apply sealed records in one transaction."""
        with forking.native(), self.engine.begin() as connection:
            for seq, record, sealed in parts:
                apply(connection, seq, record, sealed)

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the catalog's file."""
        with (
            forking.native(),
            self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def next_id(self) -> int:
        """Return the first id that was never used."""
        with self.reading() as connection:
            found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'images'").scalar()
        return int(found or 0) + 1

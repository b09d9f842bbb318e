"""The catalog: a database as the commit record of a store, changed only by applying sealed shards.

The one idea: `write` seals a record, then one transaction applies it. Opening for writing applies what a
killed writer had sealed but not committed, so the log of shards alone can restore the catalog.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from index_store import databases, features, forking, places, seal, trash
from index_store.attributes import AttributeSchema
from index_store.errors import CatalogDamaged, RgunitError, damage_named
from index_store.features import Record, Sealed
from index_store.lock import LockLost, WriterLock
from index_store.replay import apply, next_id
from index_store.whole import WRITING

HEAD = "0001"
SHARDS = "shards"
HALF_FILES = (
    "catalog.*",
    "vectors.*",
    "forgetting.json",
    f"{SHARDS}/*",
    "cache/*.cells.h5",
    "runs/*/run.json",
    "images/generated/*/*",
)


class Catalog:
    """A folder's catalog and shards. Threads may share it; one process at a time writes."""

    def __init__(self, folder: Path, wait: float = 0.0, url: str | None = None) -> None:
        self.folder = folder = folder.absolute()  # whatever folder the process changes to
        self.shards = folder / SHARDS
        self.url = url
        self.database = databases.database(folder, wait, url)
        self.file = self.database.file
        self.guard = threading.RLock()
        self.step: features.Step = lambda name: None
        self.records: dict[
            int, tuple[tuple[Any, ...], Any]
        ] = {}  # runs by their numbers, with the rows that they are of
        self.trained: dict[int, WriterLock] = {}  # the runs that this process trains, by their numbers
        self.follow: Callable[[], None] = lambda: None  # brings an engine that keeps vectors too to the last commit
        self._changing = 0
        self._mended = False  # since the lock was taken
        forking.remember(self)

    @property
    def lock(self) -> databases.Lock:
        """The writer's lock."""
        return self.database.lock

    @property
    def read_only(self) -> bool:
        """Whether this process may read the workspace, and not write into it."""
        return self.database.read_only

    def after_fork(self) -> None:
        """In a forked child: locks and connections of its own."""
        self.guard = threading.RLock()
        self._changing = 0
        for lock in self.trained.values():
            lock.after_fork()
        self.trained = {}
        self.database.after_fork()

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
        return databases.there(folder) or any((folder / SHARDS).glob("*" + features.SUFFIX))

    @classmethod
    def create(cls, folder: Path, *, unfinished_ok: bool = False, url: str | None = None) -> Catalog:
        """Make an empty catalog; FileExistsError if there is one. `unfinished_ok`: one without any change is taken
        over (its making was killed). `url`: a PostgreSQL database to keep it in."""
        if cls.exists(folder) and not (unfinished_ok and cls._untouched(folder, url)):
            raise FileExistsError(f"{folder} already holds a store: open it, or choose another folder")
        places.refuse_links(folder)
        catalog = cls(folder, url=url)  # refused before anything is made
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        try:
            catalog.migrate()
        except RgunitError:  # a server that cannot be reached: nothing was made
            for made in (folder / SHARDS, folder):
                with suppress(OSError):
                    made.rmdir()
            raise
        return catalog

    @classmethod
    def _untouched(cls, folder: Path, url: str | None) -> bool:
        """Whether a folder's catalog has seen no change and there is no shard."""
        if any((folder / SHARDS).glob("*" + features.SUFFIX)):
            return False
        catalog = cls(folder, url=url)
        try:
            if catalog.revision() is None:
                return True
            with catalog.reading() as connection:
                return catalog.sequence(connection) == 0
        finally:
            catalog.close()

    @classmethod
    def open(cls, folder: Path, wait: float = 0.0, url: str | None = None) -> Catalog:
        """Open a catalog, migrating an older one; RgunitError if there is none.

        A damaged catalog opens too, so that it can be verified and rebuilt; reading it raises CatalogDamaged.
        """
        if not cls.exists(folder):
            raise RgunitError(f"no store at {folder}: make one first")
        places.refuse_links(folder)
        catalog = cls(folder, wait, url)
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
            tables = self.database.tables(connection)
            if "alembic_version" not in tables:
                if "images" in tables or any(self.shards.glob("*" + features.SUFFIX)):
                    raise CatalogDamaged(self.file, self.database.absent)
                return None
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return None if found is None else str(found)

    def migrate(self) -> None:
        """Bring the tables to this version, under the writer's lock."""
        with self.held(repair=False):
            try:
                self.database.migrate()
            except sa.exc.DatabaseError as error:
                raise self.refused(error) from error

    def refused(self, error: sa.exc.DatabaseError) -> RgunitError:
        """What it means that tables could not be written: no damage, whatever the engine says."""
        told = self.database.failed(error)
        return RgunitError(f"cannot write {self.file}: {told.why}") if isinstance(told, CatalogDamaged) else told

    def close(self) -> None:
        """Close the connections and give the locks back."""
        with self.guard:
            for lock in self.trained.values():
                lock.release()
            self.trained.clear()
            self.database.close()

    # Reading

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One consistent view of the committed state; raises CatalogDamaged where its tables cannot be read."""
        if (why := self.database.missing()) is not None:
            raise CatalogDamaged(self.file, why)
        try:
            with forking.native(), self.database.connect() as connection:
                yield connection
        except sa.exc.DatabaseError as error:
            raise self.database.failed(error) from error

    def version(self) -> tuple[int, ...]:
        """Return numbers that differ after a commit of any process."""
        if (why := self.database.missing()) is not None:
            raise CatalogDamaged(self.file, why)
        try:
            with forking.native():
                return self.database.version()
        except sa.exc.DatabaseError as error:
            raise self.database.failed(error) from error

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
    def held(self, *, repair: bool = True) -> Iterator[None]:
        """Around long work that changes things: no other process changes anything. Raises Locked.

        Where writers take turns the lock is given back at the end, else when the catalog is closed. `repair`: mend what
        a killed writer left.
        """
        with self.guard:
            if self.lock.acquire():
                self._mended = False
            if repair and not self._mended:
                self._mended = True  # what mends may come here again
                try:
                    self.recover()
                    self.follow()
                except BaseException:
                    self._mended = False  # else the next change would be sealed beside what is still to be applied
                    if self.database.turns and not self._changing:
                        self.lock.release()
                    raise
            self._changing += 1
        try:
            yield
        finally:
            with self.guard:
                self._changing -= 1
                if self.database.turns and not self._changing:
                    self.lock.release()

    def begin(self) -> None:
        """Before work that reads what it will change: another writer is told of (Locked), and what a killed one left is
        mended, so that what is read is the whole."""
        with self.held():
            pass

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a change and what it is decided by: no other process, and no other thread, changes anything."""
        with self.held(), self.guard:
            yield

    def clean(self) -> None:
        """Delete the files that a killed writer left half written."""
        for pattern in HALF_FILES:
            for stale in self.folder.glob(pattern + WRITING):
                if not stale.is_dir():
                    stale.unlink(missing_ok=True)

    def recover(self) -> int:
        """Delete half-written files, apply sealed shards that were not committed, end deletions that were begun;
        return how many shards were applied."""
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
                try:
                    self.commit([(seq, record, Sealed(path.name, path.stat().st_size, seal.digest_of(path)))])
                except sa.exc.DatabaseError as error:
                    why = str(error.orig).partition("\n")[0]
                    raise RgunitError(f"cannot write {self.file}: {why}; {path.name} is still to be applied") from error
                sequence, applied = seq, applied + 1
        trash.empty(self)
        return applied

    def write(self, *records: Record) -> int:
        """Seal records and commit them together; return the last one's place in the log.

        Durable on return, or nothing has changed: RgunitError says why (a full disk, for one). An engine that follows
        must be there before; where it is lost just after the commit, a warning says so, and the next change mends it.
        Where the lock is lost meanwhile, another writer may have committed what was sealed: that is looked at.
        """

        def step(name: str) -> None:
            self.step(name)
            if name in ("write", "rename") and not self.lock.kept():  # the file's name may be another writer's now
                raise LockLost

        with self.writing():
            self.follow()
            self.step("begin")
            with self.reading() as connection:
                seq = self.sequence(connection)
            parts: list[tuple[int, Record, Sealed]] = []
            try:
                for record in records:
                    seq += 1
                    self.step("seal")
                    parts.append((seq, record, features.seal(self.shards, seq, record, step)))
                self.step("commit")
                self.commit(parts)
            except BaseException as error:
                committed = self._discard(parts if len(parts) == len(records) else [])
                lost = isinstance(error, sa.exc.DatabaseError | LockLost)
                if isinstance(error, OSError):
                    raise RgunitError(
                        f"cannot write {self.shards}: {error.strerror or error}; nothing was changed"
                    ) from error
                if lost and not committed:
                    sure = committed is not None
                    became = "nothing was changed" if sure else "whether it was committed is seen when it can be read"
                    why = str(getattr(error, "orig", error)).partition("\n")[0]
                    raise RgunitError(f"cannot write {self.file}: {why}; {became}") from error
                if not lost:
                    raise
            self.step("committed")
            try:
                self.follow()
            except RgunitError as error:
                warnings.warn(f"{error}; what was written is kept, and found as before", RuntimeWarning, stacklevel=3)
            return seq

    def _discard(self, parts: Sequence[tuple[int, Record, Sealed]]) -> bool | None:
        """Delete sealed records that were not committed (an interrupt may come just after the commit, or before anybody
        has noted what was sealed); return whether these were, None where it cannot be told."""
        try:
            if not self.lock.kept():  # another writer may seal now, or have applied what was sealed: in turn again
                self._mended = False
                self.lock.acquire()
            with self.reading() as connection:
                sequence = self.sequence(connection)
                listed = set(connection.exec_driver_sql("SELECT digest FROM shards").scalars())
        except RgunitError:
            return None
        for seq, path in self.sealed_files():
            if seq > sequence:  # under the writer's lock nobody else seals
                path.unlink(missing_ok=True)
        return bool(parts) and all(sealed.digest in listed for _, _, sealed in parts)

    def commit(self, parts: Sequence[tuple[int, Record, Sealed]]) -> None:
        """Apply sealed records in one transaction."""
        with forking.native(), self.database.transaction() as connection:
            for seq, record, sealed in parts:
                apply(connection, seq, record, sealed)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction of the writer; durable when it ends. RgunitError where it cannot be made."""
        try:
            with forking.native(), self.database.transaction() as connection:
                yield connection
        except sa.exc.DatabaseError as error:
            raise self.refused(error) from error

    def checkpoint(self) -> None:
        """Fold what the engine keeps beside the tables into them."""
        with forking.native():
            self.database.checkpoint()

    def erase(self) -> str:
        """Write the tables anew, without what was deleted from them; what the engine keeps of it, "" for nothing."""
        with forking.native():
            return self.database.erase()

    def next_id(self) -> int:
        """Return the first id that was never used."""
        with self.reading() as connection:
            return next_id(connection)

"""The catalog: SQLite as the commit record of a store, changed only by applying sealed shards.

The one idea: `write` seals a record, then one transaction applies it. Opening for writing applies what a
killed writer had sealed but not committed, so the log of shards alone can restore the catalog.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from index_store import features, seal
from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.features import Record, Sealed
from index_store.lock import WriterLock
from index_store.models import Encoder, Image, Removed, Setting, Shard

HEAD = "0001"
FILE = "catalog.db"
SHARDS = "shards"
IMAGE_TEXTS = ("key", "split", "origin", "path", "sha256", "run", "fields")


class CatalogDamaged(RgunitError):
    """A catalog that SQLite cannot read."""

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"{file} is damaged ({why}): run `rgunit index rebuild`")
        self.why = why


class Catalog:
    """A folder's catalog and shards. Threads may share it; one process at a time writes."""

    def __init__(self, folder: Path, wait: float = 0.0) -> None:
        self.folder = folder
        self.file = folder / FILE
        self.shards = folder / SHARDS
        self.lock = WriterLock(folder, wait)
        self.guard = threading.RLock()
        self.step: features.Step = lambda name: None
        self.engine = connect(self.file)
        self._process = os.getpid()
        self._watch: tuple[int, sqlite3.Connection] | None = None

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether the folder holds a store (a lost catalog can be restored from the shards)."""
        return (folder / FILE).exists() or any((folder / SHARDS).glob("*" + features.SUFFIX))

    @classmethod
    def create(cls, folder: Path) -> Catalog:
        """Make an empty catalog; FileExistsError if there is one."""
        if cls.exists(folder):
            raise FileExistsError(f"{folder} already holds a store: open it, or choose another folder")
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        catalog = cls(folder)
        catalog.lock.acquire()
        catalog.migrate()
        return catalog

    @classmethod
    def open(cls, folder: Path, wait: float = 0.0) -> Catalog:
        """Open a catalog, migrating an older one; RgunitError if there is none.

        A damaged catalog opens too, so that it can be verified and rebuilt; reading it raises CatalogDamaged.
        """
        if not cls.exists(folder):
            raise RgunitError(f"no store at {folder}: make one first")
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
        if self._process != os.getpid():  # a forked child must not use its parent's connections
            self.engine.dispose(close=False)
            self._process, self._watch = os.getpid(), None
        try:
            with self.engine.connect() as connection:
                yield connection
        except sa.exc.DatabaseError as error:
            raise CatalogDamaged(self.file, str(error.orig)) from error

    def version(self) -> tuple[int, ...]:
        """Return numbers that differ after a commit of any process; far cheaper than a query."""
        try:
            place = self.file.stat().st_ino
            if self._watch is None or self._watch[0] != place or self._process != os.getpid():
                if self._watch:  # the file was replaced by a rebuild
                    self.engine.dispose()
                self._watch = (place, sqlite3.connect(self.file, check_same_thread=False, timeout=60))
            return place, int(self._watch[1].execute("PRAGMA data_version").fetchone()[0])
        except FileNotFoundError:
            raise CatalogDamaged(self.file, "it is missing") from None
        except sqlite3.DatabaseError as error:
            raise CatalogDamaged(self.file, str(error)) from error

    def schema(self, connection: sa.Connection | None = None) -> AttributeSchema:
        """Return attribute names and groups."""
        if connection is None:
            with self.reading() as own:
                return self.schema(own)
        names = connection.exec_driver_sql("SELECT name FROM attributes ORDER BY position").scalars()
        groups = connection.exec_driver_sql("SELECT members FROM attribute_groups ORDER BY position").scalars()
        return AttributeSchema(tuple(names), tuple(tuple(json.loads(group)) for group in groups))

    def sequence(self, connection: sa.Connection) -> int:
        """Return the place of the last committed change in the log."""
        return int(self.setting(connection, "sequence") or 0)

    def setting(self, connection: sa.Connection, key: str) -> str | None:
        """Return a setting."""
        found = connection.exec_driver_sql("SELECT value FROM settings WHERE key = ?", (key,)).scalar()
        return None if found is None else str(found)

    # Writing

    def begin(self) -> None:
        """Become the writer: take the lock; right after taking it, mend what a killed writer left. Raises Locked."""
        if self.lock.acquire():
            self.recover()

    def recover(self) -> int:
        """Delete half-written files, apply sealed shards that were not committed; return how many were applied."""
        for stale in self.shards.glob("*" + features.TEMPORARY):
            stale.unlink()
        with self.reading() as connection:
            sequence = self.sequence(connection)
            named = set(connection.execute(sa.select(Shard.file)).scalars())
        found = sorted((features.shard_seq(path.name) or 0, path) for path in self.shards.glob("*" + features.SUFFIX))
        orphans = [(seq, path) for seq, path in found if path.name not in named]
        applied = 0
        for seq, path in orphans:
            if seq != sequence + 1:
                if seq <= sequence:
                    path.unlink()  # replaced by a compaction that was committed
                continue
            try:
                record = features.read(path, check=True, vectors=False)
            except features.ShardDamaged:
                path.unlink()
                continue
            if record.header.get("base"):
                path.unlink()  # a compaction that was not committed: the shards that it read are still there
                continue
            sealed = Sealed(path.name, path.stat().st_size, seal.digest_of(path))
            self.commit([(seq, record, sealed)])
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
        with self.engine.begin() as connection:
            for seq, record, sealed in parts:
                apply(connection, seq, record, sealed)

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the catalog's file."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def next_id(self) -> int:
        """Return the first id that was never used."""
        with self.reading() as connection:
            found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'images'").scalar()
        return int(found or 0) + 1


def connect(file: Path | None) -> sa.Engine:
    """Return an engine on a SQLite file (or in memory): write-ahead log, every commit flushed to the disk."""
    if file is None:
        engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    else:
        engine = sa.create_engine(f"sqlite:///{file}")

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 60000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def migrate(engine: sa.Engine) -> None:
    """Bring a catalog's tables to this version by Alembic."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "index_store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def schema_header(schema: AttributeSchema) -> dict[str, Any]:
    """Return the part of a record's header that tells the schema."""
    return {"attributes": list(schema.names), "groups": [list(group) for group in schema.groups]}


def apply(connection: sa.Connection, seq: int, record: Record, sealed: Sealed) -> None:
    """Make one record's change in the tables. The same code serves a write, a recovery and a restoration."""
    header = record.header
    compaction = header.get("base") == "first"
    if compaction:
        connection.exec_driver_sql("DELETE FROM shards")
    if "attributes" in header:
        _apply_schema(connection, header)
    for told in header.get("encoders", ()):
        _apply_encoder(connection, told)
    encoder = _apply_encoder(connection, header["encoder"]) if "encoder" in header else None
    for key, value in header.get("settings", {}).items():
        upsert_setting(connection, key, value)
    if record.kind == "images":
        # A compaction repeats the rows that are there; only a restoration from the log starts with it.
        if not compaction or connection.exec_driver_sql("SELECT 1 FROM images LIMIT 1").first() is None:
            _apply_images(connection, seq, record)
    elif record.kind == "labels":
        _apply_labels(connection, seq, record)
    elif record.kind == "remove":
        ids = [(int(row),) for row in record.arrays["ids"]]
        connection.exec_driver_sql("DELETE FROM images WHERE id = ?", ids)
        connection.execute(sa.insert(Removed), [{"id": row, "changed": seq} for (row,) in ids])
    if "next_id" in header:
        _reserve(connection, int(header["next_id"]))
    connection.execute(
        sa.insert(Shard).values(
            seq=seq,
            kind=record.kind,
            file=sealed.file,
            size=sealed.size,
            digest=sealed.digest,
            rows=record.rows,
            encoder=encoder if record.rows and "encoder" in header else None,
        )
    )
    upsert_setting(connection, "sequence", str(seq))


def upsert_setting(connection: sa.Connection, key: str, value: str) -> None:
    """Set a setting."""
    connection.execute(sa.delete(Setting).where(Setting.key == key))
    connection.execute(sa.insert(Setting).values(key=key, value=value))


def _apply_schema(connection: sa.Connection, header: Any) -> None:
    """Add the attributes and groups that are new; widen the masks of older rows where they need a byte more."""
    names = list(connection.exec_driver_sql("SELECT name FROM attributes ORDER BY position").scalars())
    fresh = [name for name in header["attributes"] if name not in names]
    for position, name in enumerate(fresh, start=len(names)):
        connection.exec_driver_sql("INSERT INTO attributes VALUES (?, ?)", (position, name))
    groups = list(connection.exec_driver_sql("SELECT members FROM attribute_groups ORDER BY position").scalars())
    wanted = [json.dumps(group) for group in header["groups"]]
    for position, group in enumerate([g for g in wanted if g not in groups], start=len(groups)):
        connection.exec_driver_sql("INSERT INTO attribute_groups VALUES (?, ?)", (position, group))
    before, after = (len(names) + 7) // 8, (len(names) + len(fresh) + 7) // 8
    if after > before:
        rows = connection.exec_driver_sql("SELECT id, known, value FROM images").all()
        pad = bytes(after - before)
        wider = [(known + pad, value + pad, row) for row, known, value in rows]
        if wider:
            connection.exec_driver_sql("UPDATE images SET known = ?, value = ? WHERE id = ?", wider)


def _apply_encoder(connection: sa.Connection, told: Any) -> int:
    """Return the row of an encoder, made if it is new."""
    match = (Encoder.name == told["name"]) & (Encoder.fingerprint == told["fingerprint"])
    found = connection.execute(sa.select(Encoder.id).where(match)).scalar()
    if found is None:
        values = {key: told[key] for key in ("name", "fingerprint", "dim")}
        found = connection.execute(sa.insert(Encoder).values(**values).returning(Encoder.id)).scalar_one()
    return int(found)


def _slices(masks: Any) -> list[bytes]:
    """Return the rows of uint8 [n, B] as bytes."""
    width, data = masks.shape[1], masks.tobytes()
    if width == 0:
        return [b""] * len(masks)
    return [data[start : start + width] for start in range(0, len(data), width)]


def _apply_images(connection: sa.Connection, seq: int, record: Record) -> None:
    """Insert image rows."""
    count = record.rows
    if not count:
        return
    numbers = {
        name: record.arrays[name].tolist() for name in ("ids", "width", "height", "parent") if name in record.arrays
    }
    optional = [
        [number if number >= 0 else None for number in numbers[name]] if name in numbers else [None] * count
        for name in ("width", "height", "parent")
    ]
    texts = [record.text(name) for name in IMAGE_TEXTS]
    known, value = (_slices(record.arrays[name]) for name in ("known", "value"))
    rows = list(zip(numbers["ids"], known, value, [seq] * count, *optional, *texts, strict=True))
    columns = ("id", "known", "value", "changed", "width", "height", "parent", *IMAGE_TEXTS)
    marks = ", ".join("?" * len(columns))
    connection.exec_driver_sql(f"INSERT INTO {Image.__tablename__} ({', '.join(columns)}) VALUES ({marks})", rows)


def _apply_labels(connection: sa.Connection, seq: int, record: Record) -> None:
    """Update what is known of image rows."""
    known, value = (_slices(record.arrays[name]) for name in ("known", "value"))
    texts = [record.text(name) for name in ("split", "origin", "path", "fields")]
    ids = record.arrays["ids"].tolist()
    rows = list(zip(known, value, *texts, [seq] * len(ids), ids, strict=True))
    if rows:
        connection.exec_driver_sql(
            "UPDATE images SET known = ?, value = ?, split = ?, origin = ?, path = ?, fields = ?, changed = ? "
            "WHERE id = ?",
            rows,
        )


def _reserve(connection: sa.Connection, next_id: int) -> None:
    """Make sure that no id below `next_id` is ever given again."""
    current = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'images'").scalar()
    if current is None:
        connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('images', ?)", (next_id - 1,))
    elif int(current) < next_id - 1:
        connection.exec_driver_sql("UPDATE sqlite_sequence SET seq = ? WHERE name = 'images'", (next_id - 1,))

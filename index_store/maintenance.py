"""Checking a store and mending it.

The one idea: the sealed shards replayed in order must give exactly the catalog's tables. Where they do not, the
catalog is damaged and is made again from the shards; where a shard is damaged, its own digest says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from index_store import features
from index_store.catalog import FILE, HEAD, Catalog, apply, connect
from index_store.errors import RgunitError
from index_store.features import Record, Sealed
from index_store.models import Base

TABLES = {
    "attributes": "position, name",
    "attribute_groups": "position, members",
    "encoders": "name, fingerprint, dim",
    "images": "id, key, split, origin, known, value, path, sha256, width, height, parent, run, fields",
    "shards": "seq, kind, file, size, digest, rows",
    "settings": "key, value",
}


@dataclass(frozen=True)
class Report:
    """What `verify` found: `problems` are lines that name the file."""

    ok: bool
    problems: list[str] = field(default_factory=list)


def verify(catalog: Catalog) -> Report:
    """Check every shard against its digest, the catalog's structure, and its tables against the log."""
    problems: list[str] = []
    entries: list[tuple[int, Record, Sealed]] = []
    try:
        with catalog.reading() as connection:
            for (line,) in connection.exec_driver_sql("PRAGMA integrity_check(5)").all():
                if line != "ok":
                    problems.append(f"{FILE}: {line}")
            listed = connection.exec_driver_sql("SELECT seq, file, size, digest FROM shards ORDER BY seq").all()
            dump = _dump(connection)
    except (sa.exc.DatabaseError, UnicodeDecodeError, ValueError) as error:
        return Report(False, [f"{FILE}: cannot be read ({getattr(error, 'orig', error)})"])
    damaged = False
    for seq, file, size, digest in listed:
        path = catalog.shards / file
        try:
            if not path.exists():
                raise features.ShardDamaged(f"{file}: is missing")
            if path.stat().st_size != size:
                raise features.ShardDamaged(f"{file}: has {path.stat().st_size} bytes instead of {size}")
            record = features.read(path, check=True, vectors=False)
            sealed = Sealed(file, path.stat().st_size, features.stored_digest(path))
            if sealed.digest != digest:
                raise features.ShardDamaged(f"{file}: its digest is not the one that {FILE} keeps")
            entries.append((seq, record, sealed))
        except features.ShardDamaged as error:
            problems.append(str(error))
            damaged = True
    if not damaged:
        engine = replay(entries)
        with engine.connect() as connection:
            expected = _dump(connection)
        engine.dispose()
        for table, rows in expected.items():
            if rows != dump[table]:
                problems.append(f"{FILE}: table {table} does not match the shards")
    return Report(not problems, problems)


def replay(entries: list[tuple[int, Record, Sealed]], file: Path | None = None) -> sa.Engine:
    """Apply records in order to an empty catalog, in memory or in a file."""
    engine = connect(file)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for seq, record, sealed in entries:
            apply(connection, seq, record, sealed)
    return engine


def rebuild(catalog: Catalog) -> list[str]:
    """Restore the catalog from the shards where it does not match them; return what was mended."""
    catalog.begin()
    report = verify(catalog)
    if report.ok:
        return []
    entries = sealed_entries(catalog)
    temporary = catalog.folder / (FILE + features.TEMPORARY)
    temporary.unlink(missing_ok=True)
    engine = replay(entries, temporary)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (HEAD,))
    _restore_runs(catalog, engine)
    engine.dispose()
    catalog.engine.dispose()
    for suffix in ("-wal", "-shm"):
        (catalog.folder / (FILE + suffix)).unlink(missing_ok=True)
    temporary.replace(catalog.folder / FILE)
    return report.problems


def sealed_entries(catalog: Catalog) -> list[tuple[int, Record, Sealed]]:
    """Read the log from the files alone. RgunitError names a damaged or missing shard."""
    entries = []
    found = sorted((features.shard_seq(path.name) or 0, path) for path in catalog.shards.glob("*" + features.SUFFIX))
    for seq, path in found:
        record = features.read(path, check=True, vectors=False)
        entries.append((seq, record, Sealed(path.name, path.stat().st_size, features.stored_digest(path))))
    if not entries:
        raise RgunitError(f"{catalog.shards} holds no shard: there is nothing to restore {FILE} from")
    return entries


def _restore_runs(catalog: Catalog, engine: sa.Engine) -> None:
    """Fill the table of runs from the files that each run folder holds."""
    for file in sorted((catalog.folder / "runs").glob("*/run.json")):
        told = json.loads(file.read_text())
        with engine.begin() as connection:
            connection.execute(sa.insert(Base.metadata.tables["runs"]).values(**told))


def _dump(connection: sa.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return the content of the tables that the log determines."""
    dump = {}
    for table, columns in TABLES.items():
        rows = connection.exec_driver_sql(f"SELECT {columns} FROM {table}").all()
        dump[table] = sorted((tuple(row) for row in rows), key=lambda row: (str(row[0]).zfill(20), repr(row)))
    return dump

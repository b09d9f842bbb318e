"""Making a record's change in the catalog's tables: the same code for a write, a recovery and a restoration.

The one idea: the tables are a function of the log, so replaying the sealed shards gives the catalog again.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from index_store import sqlite
from index_store.attributes import AttributeSchema
from index_store.features import Record, Sealed, ShardDamaged
from index_store.models import ENCODERS, IMAGES, REMOVED, SETTINGS, SHARDS

AT_ONCE = 50_000  # rows that are Python's at a time
IMAGE_TEXTS = ("key", "split", "origin", "path", "sha256", "run", "fields")


def schema_header(schema: AttributeSchema) -> dict[str, Any]:
    """Return the part of a record's header that tells the schema."""
    return {"attributes": list(schema.names), "groups": [list(group) for group in schema.groups]}


def apply(connection: sa.Connection, seq: int, record: Record, sealed: Sealed) -> None:
    """Make one record's change in the tables. The same code serves a write, a recovery and a restoration.

    Raises ShardDamaged where the record's columns do not fit each other.
    """
    try:
        _apply(connection, seq, record, sealed)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ShardDamaged(f"{sealed.file}: its columns do not fit each other ({error})") from error


def _apply(connection: sa.Connection, seq: int, record: Record, sealed: Sealed) -> None:
    """See `apply`."""
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
        connection.execute(sa.insert(REMOVED), [{"id": row, "changed": seq} for (row,) in ids])
    if "next_id" in header:
        engine_of(connection).reserve(connection, int(header["next_id"]) - 1)
    connection.execute(
        sa.insert(SHARDS).values(
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
    connection.execute(sa.delete(SETTINGS).where(SETTINGS.c.key == key))
    connection.execute(sa.insert(SETTINGS).values(key=key, value=value))


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
    match = (ENCODERS.c.name == told["name"]) & (ENCODERS.c.fingerprint == told["fingerprint"])
    found = connection.execute(sa.select(ENCODERS.c.id).where(match)).scalar()
    if found is None:
        values = {key: told[key] for key in ("name", "fingerprint", "dim")}
        found = connection.execute(sa.insert(ENCODERS).values(**values).returning(ENCODERS.c.id)).scalar_one()
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
    columns = ("id", "known", "value", "changed", "width", "height", "parent", *IMAGE_TEXTS)
    texts = [record.text(name) for name in IMAGE_TEXTS]
    if {len(column) for column in (*record.arrays.values(), *texts)} != {count}:
        raise ValueError("they differ in length")
    for start in range(0, count, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        ids = record.arrays["ids"][part].tolist()
        optional = [
            [number if number >= 0 else None for number in record.arrays[name][part].tolist()]
            if name in record.arrays
            else [None] * len(ids)
            for name in ("width", "height", "parent")
        ]
        masks = [_slices(record.arrays[name][part]) for name in ("known", "value")]
        told = [text[part] for text in texts]
        rows = list(zip(ids, *masks, [seq] * len(ids), *optional, *told, strict=True))
        engine_of(connection).insert(connection, IMAGES.name, columns, rows)
    engine_of(connection).reserve(connection, int(record.arrays["ids"].max()))


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


def next_id(connection: sa.Connection) -> int:
    """Return the first id that was never used."""
    return int(engine_of(connection).last_id(connection)) + 1


def engine_of(connection: sa.Connection) -> Any:
    """The module with what this engine does in its own way: `last_id`, `reserve` and `insert`."""
    if connection.dialect.name == "sqlite":
        return sqlite
    from index_store import postgres

    return postgres

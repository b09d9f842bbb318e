"""Merging all sealed files of a store into one with the rows and one for each encoder.

The one idea: what is merged is written and committed as any change is; only then the files that it replaces go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from index_store import features
from index_store.catalog import Catalog
from index_store.features import Record
from index_store.replay import IMAGE_TEXTS, schema_header
from index_store.state import encoders_of


def merge(catalog: Catalog) -> str:
    """Merge the files of a store that is whole, under the writer's lock; return a line on it."""
    with catalog.reading() as connection:
        names = connection.exec_driver_sql("SELECT file FROM shards ORDER BY seq").scalars().all()
        old = [catalog.shard(name) for name in names]
        encoders = encoders_of(connection)
        held = connection.exec_driver_sql("SELECT encoder, file FROM shards ORDER BY seq").all()
        first = catalog.sequence(connection) + 1
        rows = _rows_record(catalog, connection)
    told_all = [{"name": one.name, "fingerprint": one.fingerprint, "dim": one.dim} for one in encoders]
    vectors = []
    for one, told in zip(encoders, told_all, strict=True):
        files = [str(file) for encoder, file in held if encoder == one.number]
        if arrays := _live_vectors(catalog, files, rows.arrays["ids"]):
            vectors.append(Record("vectors", {"encoder": told, "base": "part"}, arrays))
    about = {"first": first, "parts": 1 + len(vectors)}
    header = {**rows.header, "base": "first", "encoders": told_all, **about}
    parts = [Record("images", header, rows.arrays, rows.texts)]
    parts += [Record(part.kind, {**part.header, **about}, part.arrays) for part in vectors]
    catalog.write(*parts)
    catalog.checkpoint()
    for file in old:
        file.unlink(missing_ok=True)
    return f"{len(old)} sealed files merged into {len(parts)}"


def _rows_record(catalog: Catalog, connection: sa.Connection) -> Record:
    """Return all image rows as one record."""
    schema = catalog.schema(connection)
    names = ["id", "known", "value", "width", "height", "parent", *IMAGE_TEXTS]
    rows = connection.exec_driver_sql(f"SELECT {', '.join(names)} FROM images ORDER BY id").all()
    columns = dict(zip(names, zip(*rows, strict=True) if rows else ([],) * len(names), strict=True))
    arrays: dict[str, npt.NDArray[Any]] = {"ids": np.array(columns["id"], np.int64)}
    for name in ("known", "value"):
        arrays[name] = np.frombuffer(b"".join(columns[name]), np.uint8).reshape(len(rows), schema.width)
    for name in ("width", "height", "parent"):
        arrays[name] = np.array([-1 if number is None else number for number in columns[name]], np.int64)
    settings = connection.exec_driver_sql("SELECT key, value FROM settings WHERE key <> 'sequence'").all()
    header = schema_header(schema) | {"settings": {str(k): str(v) for k, v in settings}, "next_id": catalog.next_id()}
    return Record("images", header, arrays, {name: list(columns[name]) for name in IMAGE_TEXTS})


def _live_vectors(
    catalog: Catalog, files: Sequence[str], ids: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[Any]] | None:
    """Return the vectors of some shards, in order of id, of the ids that are still there."""
    parts = [
        (features.read(catalog.shard(file), vectors=False).arrays["ids"], features.map_vectors(catalog.shard(file)))
        for file in files
    ]
    if not parts:
        return None
    own = np.concatenate([part[0] for part in parts])
    live = np.flatnonzero(np.isin(own, ids))
    if not len(live):
        return None
    order = live[np.argsort(own[live], kind="stable")]
    vectors = parts[0][1] if len(parts) == 1 else np.concatenate([part[1] for part in parts])
    return {"ids": own[order], "vectors": vectors[order]}

"""The rows' names: which id a key or a picture's path has, and which key an id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store.catalog import Catalog
from index_store.ingest import stored_path

AT_ONCE = 30_000


def ids_of(catalog: Catalog, keys: Sequence[str]) -> dict[str, int]:
    """Return the ids of the keys that are in the store."""
    return {str(key): int(row) for key, row in _rows(catalog, "SELECT key, id FROM images WHERE key IN ({})", keys)}


def ids_at(catalog: Catalog, paths: Sequence[str]) -> dict[str, int]:
    """Return the ids of the pictures that lie at paths, absolute or relative to the workspace, by the path as given."""
    stored = {path: stored_path(catalog.folder, catalog.folder / Path(path)) for path in paths}
    rows = _rows(catalog, "SELECT path, id FROM images WHERE path IN ({})", list(stored.values()))
    found = {str(path): int(row) for path, row in rows}
    return {path: found[place] for path, place in stored.items() if place in found}


def keys_of(catalog: Catalog, ids: npt.NDArray[np.int64]) -> list[str | None]:
    """Return the keys of ids in their order, None for one without."""
    found = dict(_rows(catalog, "SELECT id, key FROM images WHERE id IN ({})", ids.tolist()))
    return [found.get(row) for row in ids.tolist()]


def _rows(catalog: Catalog, query: str, values: Sequence[Any]) -> list[Any]:
    """The rows of a query whose {} takes a list of values of any length."""
    found: list[Any] = []
    with catalog.reading() as connection:
        for start in range(0, len(values), AT_ONCE):
            part = values[start : start + AT_ONCE]
            found += connection.exec_driver_sql(query.format(", ".join("?" * len(part))), tuple(part)).all()
    return found

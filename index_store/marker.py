"""`catalog.json` and `vectors.json`: in a workspace whose catalog is on PostgreSQL, or whose vectors are on Milvus, the
name that they have there.

The one idea: it names no server, so a workspace that somebody sends makes nobody connect anywhere; and it tells the
folder that it was written for, so a copy does not change what it is a copy of.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path

from index_store import places
from index_store.errors import CatalogDamaged
from index_store.whole import write_json

MARKER = "catalog.json"
VECTORS = "vectors.json"
_SCHEMA = re.compile(r"rgunit_[0-9a-f]{16}", re.ASCII)


def read(folder: Path, name: str = MARKER) -> tuple[str | None, bool]:
    """The name that a folder has there (None: it has none yet), and whether it was written for this very folder.

    CatalogDamaged for a text that is no such name.
    """
    file = folder / name
    if not file.exists():
        return None, True
    try:
        told = json.loads(places.read_bytes(file, 4096))
        schema, shards = told["schema"], told["shards"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogDamaged(file, "it cannot be read") from error
    if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
        raise CatalogDamaged(file, f"{places.told(schema)} is no schema's name")
    return schema, shards == place(folder)


def place(folder: Path) -> int:
    """What tells a folder from its copies, also where several machines have it mounted: its inode's number."""
    return (folder / "shards").stat().st_ino if (folder / "shards").exists() else 0


def fresh() -> str:
    """A name that no other workspace has."""
    return f"rgunit_{secrets.token_hex(8)}"


def write(folder: Path, schema: str, name: str = MARKER) -> None:
    """Keep the name, durably."""
    write_json(folder / name, {"schema": schema, "shards": place(folder)}, durable=True)

"""The catalog's tables.

The one idea: a row is committed truth; everything else is a sealed file that a row names, or can be made again.
SQLAlchemy's tables without its object mapper: that would double the time that a command takes to start.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()
BIG = BigInteger().with_variant(Integer, "sqlite")  # SQLite's whole numbers have 64 bits anyway

# The columns that labels and filters are about.
ATTRIBUTES = Table(
    "attributes",
    METADATA,
    Column("position", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
)

# Exclusive groups; `members` is a JSON list of names.
ATTRIBUTE_GROUPS = Table(
    "attribute_groups",
    METADATA,
    Column("position", Integer, primary_key=True),
    Column("members", Text, nullable=False),
)

# What made vectors: a name, the fingerprint of its weights, its dimension.
ENCODERS = Table(
    "encoders",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("dim", Integer, nullable=False),
    UniqueConstraint("name", "fingerprint"),
)

# The rows of the store: packed labels, split, origin; for an image also where it lies and what made it. `changed` is
# the place in the log of the last change; `path` is relative to the workspace when inside it.
IMAGES = Table(
    "images",
    METADATA,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("key", Text, unique=True),
    Column("split", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("known", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("changed", BIG, nullable=False, index=True),
    Column("path", Text, index=True),
    Column("sha256", Text, index=True),
    Column("width", Integer),
    Column("height", Integer),
    Column("parent", BIG),
    Column("run", Text),
    Column("fields", Text),
    sqlite_autoincrement=True,
)

# Ids that were removed, so that open readers learn of it.
REMOVED = Table(
    "removed",
    METADATA,
    Column("id", BIG, primary_key=True),
    Column("changed", BIG, nullable=False, index=True),
)

# The sealed files of the log.
SHARDS = Table(
    "shards",
    METADATA,
    Column("seq", BIG, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("file", Text, nullable=False),
    Column("size", BIG, nullable=False),
    Column("digest", Text, nullable=False),
    Column("rows", BIG, nullable=False),
    Column("encoder", Integer, ForeignKey("encoders.id")),
)

# Training runs; `config` and `summary` are JSON.
RUNS = Table(
    "runs",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("stage", Text, nullable=False),
    Column("preset", Text, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("config", Text, nullable=False),
    Column("summary", Text, nullable=False),
)

# Small values by their keys.
SETTINGS = Table(
    "settings",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

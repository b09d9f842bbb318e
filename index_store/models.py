"""The catalog's tables as SQLAlchemy models.

The one idea: a row is committed truth; everything else is a sealed file that a row names, or can be made again.
"""

from __future__ import annotations

from sqlalchemy import Float, ForeignKey, LargeBinary, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables."""


class Attribute(Base):
    """One attribute column of the schema."""

    __tablename__ = "attributes"
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)


class AttributeGroup(Base):
    """One exclusive group; `members` is a JSON list of names."""

    __tablename__ = "attribute_groups"
    position: Mapped[int] = mapped_column(primary_key=True)
    members: Mapped[str] = mapped_column(Text)


class Encoder(Base):
    """What made vectors: a name, the fingerprint of its weights, its dimension."""

    __tablename__ = "encoders"
    __table_args__ = (UniqueConstraint("name", "fingerprint"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(Text)
    dim: Mapped[int]


class Image(Base):
    """One row of the store: packed labels, split, origin; for an image also where it lies and what made it.

    `changed` is the place in the log of the last change; `path` is relative to the workspace when inside it.
    """

    __tablename__ = "images"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    key: Mapped[str | None] = mapped_column(Text, unique=True)
    split: Mapped[str] = mapped_column(Text)
    origin: Mapped[str] = mapped_column(Text)
    known: Mapped[bytes] = mapped_column(LargeBinary)
    value: Mapped[bytes] = mapped_column(LargeBinary)
    changed: Mapped[int] = mapped_column(index=True)
    path: Mapped[str | None] = mapped_column(Text, index=True)
    sha256: Mapped[str | None] = mapped_column(Text, index=True)
    width: Mapped[int | None]
    height: Mapped[int | None]
    parent: Mapped[int | None]
    run: Mapped[str | None] = mapped_column(Text)
    fields: Mapped[str | None] = mapped_column(Text)


class Removed(Base):
    """An id that was removed, so that open readers learn of it."""

    __tablename__ = "removed"
    id: Mapped[int] = mapped_column(primary_key=True)
    changed: Mapped[int] = mapped_column(index=True)


class Shard(Base):
    """One sealed file of the log."""

    __tablename__ = "shards"
    seq: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    file: Mapped[str] = mapped_column(Text)
    size: Mapped[int]
    digest: Mapped[str] = mapped_column(Text)
    rows: Mapped[int]
    encoder: Mapped[int | None] = mapped_column(ForeignKey("encoders.id"))


class Run(Base):
    """One training run; `config` and `summary` are JSON."""

    __tablename__ = "runs"
    number: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(Text)
    preset: Mapped[str] = mapped_column(Text)
    steps: Mapped[int]
    status: Mapped[str] = mapped_column(Text)
    created: Mapped[str] = mapped_column(Text)
    seconds: Mapped[float] = mapped_column(Float)
    config: Mapped[str] = mapped_column(Text)
    summary: Mapped[str] = mapped_column(Text)


class Setting(Base):
    """A small value by its key."""

    __tablename__ = "settings"
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[str] = mapped_column(Text)

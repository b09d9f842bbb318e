"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "attributes",
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "attribute_groups",
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("members", sa.Text, nullable=False),
    )
    op.create_table(
        "encoders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("dim", sa.Integer, nullable=False),
        sa.UniqueConstraint("name", "fingerprint"),
    )
    op.create_table(
        "images",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("key", sa.Text, unique=True),
        sa.Column("split", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("known", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("changed", BIG, nullable=False, index=True),
        sa.Column("path", sa.Text),
        sa.Column("sha256", sa.Text),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("parent", BIG),
        sa.Column("run", sa.Text),
        sa.Column("fields", sa.Text),
        sqlite_autoincrement=True,
    )
    for column in ("path", "sha256"):
        there = sa.text(f"{column} IS NOT NULL")
        op.create_index(f"ix_images_{column}", "images", [column], sqlite_where=there, postgresql_where=there)
    op.create_table(
        "removed",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("changed", BIG, nullable=False, index=True),
    )
    op.create_table(
        "shards",
        sa.Column("seq", BIG, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("size", BIG, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("rows", BIG, nullable=False),
        sa.Column("encoder", sa.Integer, sa.ForeignKey("encoders.id")),
    )
    op.create_table(
        "runs",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("preset", sa.Text, nullable=False),
        sa.Column("steps", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created", sa.Text, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )

"""Bringing a catalog's tables to this version, by Alembic's numbered migrations."""

from __future__ import annotations

import sqlalchemy as sa

from index_store.errors import RgunitError


def migrate(engine: sa.Engine) -> None:
    """Bring a catalog's tables to this version."""
    with engine.begin() as connection:
        migrate_over(connection)


def migrate_over(connection: sa.Connection) -> None:
    """See `migrate`: as a part of a transaction."""
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", "index_store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise RgunitError(f"the catalog's schema is none of rgunit's ({error}): run `rgunit index rebuild`") from error

"""A catalog in a schema of a PostgreSQL database, for writers on many machines.

The one idea: everything is as in SQLite but the lock. It is PostgreSQL's own (an advisory lock of the writer's
connection, so it ends with that), it is taken for each change, and what is committed goes over that same connection: a
writer that has lost its lock can commit nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from index_store import marker
from index_store.errors import CatalogDamaged, Locked, ReadOnly, RgunitError, Unreachable, UsageError
from index_store.lock import LockLost, read_only, refuse_read_only
from index_store.migrating import migrate_over

DRIVER = "postgresql+psycopg"
TURN = 60.0  # seconds that a writer waits at least for others, each of which holds the lock for one change
_OF_PARENTS: list[object] = []


class PostgresDatabase:
    """See `databases.Database`. Many processes change it in turns."""

    turns = True

    def __init__(self, folder: Path, wait: float, url: str) -> None:
        self.folder, self.file = folder, folder / marker.MARKER
        self.url = _parsed(url)
        self.shown = _shown(self.url)
        self.read_only = read_only(folder)
        told, self._own = marker.read(folder)
        self.schema = told if told and self._own else marker.fresh()
        self.engine = self._connected()
        self.lock = AdvisoryLock(self, wait)

    def _connected(self) -> sa.Engine:
        """An engine whose connections see the workspace's schema alone, each transaction one snapshot."""
        given = self.url.query.get("options", "")
        options = [given if isinstance(given, str) else " ".join(given), f"-csearch_path={self.schema}"]
        options.append("-csynchronous_commit=on")
        told = {"options": " ".join(options).strip(), "application_name": f"rgunit {_me()}"[:63]}
        told["client_encoding"] = "UTF8"  # whatever the database's is
        url = self.url.difference_update_query(["options"])
        try:
            engine = sa.create_engine(url, isolation_level="REPEATABLE READ", connect_args=told)
        except ImportError as error:
            raise RgunitError(
                "a catalog on PostgreSQL needs psycopg, which is not installed: pip install 'rgunit[postgres]'"
            ) from error

        @event.listens_for(engine, "before_cursor_execute", retval=True)
        def _marks(_: Any, __: Any, statement: str, values: Any, context: Any, ___: bool) -> tuple[str, Any]:
            if context is None or context.compiled is None:  # written for both engines, with SQLite's marks
                statement = statement.replace("%", "%%").replace("?", "%s")
            return statement, values

        return engine

    def after_fork(self) -> None:
        """Its parent's connections are kept, for closing them would end them in the parent."""
        _OF_PARENTS.append(self.engine)
        self.engine = self._connected()
        self.lock.after_fork()

    def close(self) -> None:
        self.lock.release()
        self.engine.dispose()

    def missing(self) -> str | None:
        return None if self._own else "this folder is a copy, and the catalog is the original's"

    @property
    def absent(self) -> str:
        """What to say where there are no tables."""
        if not self.file.exists():  # as after a move from SQLite
            return f"it has no catalog on {self.shown} yet"
        return f"schema {self.schema} is not on {self.shown}, if that is the right server"

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        with self._answering() as connection:
            yield connection

    def _answering(self) -> sa.Connection:
        """A connection to read by. One that a restart of the server has ended is not known to be until it is asked."""
        connection = self.engine.connect().execution_options(postgresql_readonly=True)
        try:
            connection.exec_driver_sql("SELECT 1")
        except sa.exc.DatabaseError as error:
            connection.close()
            if not error.connection_invalidated:
                raise
            connection = self.engine.connect().execution_options(postgresql_readonly=True)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        with self.lock.connection.begin():
            self.lock.assure()
            yield self.lock.connection

    def failed(self, error: sa.exc.DatabaseError) -> RgunitError:
        why, kind = str(error.orig).partition("\n")[0], type(error.orig).__name__
        kinds = {one.__name__ for one in type(error.orig).__mro__}
        if kind == "InsufficientPrivilege":
            return RgunitError(
                f"the catalog on {self.shown} may not be used by this user ({why}): ask its owner for that"
            )
        if "DataError" in kinds or kind == "ProgramLimitExceeded":
            return RgunitError(f"the catalog on {self.shown} cannot hold this: {why}")
        if "OperationalError" in kinds or kind == "ProgrammingError":  # itself: before anything was asked
            return Unreachable(
                f"the catalog on {self.shown} cannot be reached ({why}): start the server, or correct --catalog URL"
            )
        missing = kind in ("UndefinedTable", "InvalidSchemaName")
        return CatalogDamaged(self.file, self.absent if missing else why)

    def version(self) -> tuple[int, ...]:
        """The place in the log: every commit that a reader may see the difference of moves it."""
        for last in (False, True):
            try:
                with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    found = connection.exec_driver_sql("SELECT value FROM settings WHERE key = 'sequence'").scalar()
                return (int(found or 0),)
            except sa.exc.OperationalError as error:
                if last or not error.connection_invalidated:  # a server that was started again: once more
                    raise
        raise AssertionError

    def tables(self, connection: sa.Connection) -> set[str]:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        return set(connection.exec_driver_sql(query).scalars())

    def migrate(self) -> None:
        """Several may make the same workspace at once: the first one's schema is everybody's."""
        with self._alone():
            told, _ = marker.read(self.folder)
            if told in (None, self.schema):
                with self.transaction() as connection:
                    connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {self.schema}")
                    migrate_over(connection)
                if told is None:
                    marker.write(self.folder, self.schema)
                return
        self.lock.release()
        self.engine.dispose()
        self.schema = told
        self.engine = self._connected()
        self.lock.acquire()
        self.migrate()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Around giving a folder its schema: nobody else does so. The lock is of the folder, without a schema yet."""
        connection, key = self.lock.connection, (marker.place(self.folder) % 2**63,)
        connection.exec_driver_sql("SELECT pg_advisory_lock(?)", key)
        connection.commit()
        try:
            yield
        finally:
            with suppress(sa.exc.SQLAlchemyError):  # with the connection it ends
                connection.exec_driver_sql("SELECT pg_advisory_unlock(?)", key)
                connection.commit()

    def problems(self, connection: sa.Connection) -> list[str]:
        return []  # PostgreSQL checks its own pages

    def checkpoint(self) -> None:
        """PostgreSQL does so by itself."""

    def erase(self) -> str:
        """New files for the tables and what was counted of their values; the server's own log is its own matter."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            tables = ", ".join(sorted(self.tables(connection)))
            connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {tables}")
        return (
            "PostgreSQL's write-ahead log keeps what was deleted until its segments are used again (`CHECKPOINT` and "
            "`SELECT pg_switch_wal()` hasten that); so do its archives, replicas and backups"
        )

    def replace(self, fill: Callable[[sa.Connection], None]) -> None:
        """In one transaction."""
        with self.transaction() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")
            connection.exec_driver_sql(f"CREATE SCHEMA {self.schema}")
            migrate_over(connection)
            fill(connection)
        marker.write(self.folder, self.schema)  # at last: a folder that names a schema has it
        self._own = True


class AdvisoryLock:
    """The writer's lock: PostgreSQL's, of one connection, which whatever is changed goes over."""

    def __init__(self, database: PostgresDatabase, wait: float) -> None:
        self.wait = wait
        self._database = database
        self._held: sa.Connection | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock (a forked child's does not)."""
        return self._held is not None

    @property
    def connection(self) -> sa.Connection:
        """The connection that holds it."""
        if self._held is None:
            raise RgunitError("nothing can be changed without the writer's lock")
        return self._held

    @property
    def _key(self) -> int:
        return int.from_bytes(bytes.fromhex(self._database.schema.removeprefix("rgunit_")), "big", signed=True)

    def acquire(self) -> bool:
        """Take it, waiting for others' changes; return whether it was taken just now. Raises Locked, ReadOnly."""
        if self.held:
            return False
        refuse_read_only(self._database.folder)
        deadline = time.monotonic() + max(self.wait, TURN)
        try:
            try:
                self._held = self._taken(deadline)
            except sa.exc.DatabaseError as error:
                if not error.connection_invalidated:
                    raise
                self._held = self._taken(deadline)  # by a connection that the server had ended before: once more
        except sa.exc.DatabaseError as error:
            raise self._database.failed(error) from error
        return True

    def _taken(self, deadline: float) -> sa.Connection:
        """A connection that has the lock."""
        connection = self._database.engine.connect()
        try:
            self._take(connection, deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    def kept(self) -> bool:
        """Whether the server still says so: with a connection the lock is lost. Then this object has it no more."""
        if self._held is None:
            return False
        try:
            if self._has(self._held):
                self._held.rollback()
                return True
        except sa.exc.SQLAlchemyError:
            pass
        connection, self._held = self._held, None
        with suppress(sa.exc.SQLAlchemyError):
            connection.invalidate()
            connection.close()
        return False

    def assure(self) -> None:
        """In a transaction of its connection: LockLost where that has been made anew since, and the lock is not its."""
        if not self._has(self.connection):
            raise LockLost

    def _has(self, connection: sa.Connection) -> bool:
        """Whether a connection has the lock."""
        query = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND "
            "pid = pg_backend_pid() AND (classid::bigint << 32) | objid::bigint = ?"
        )
        return bool(connection.exec_driver_sql(query, (self._key,)).scalar())

    def _take(self, connection: sa.Connection, deadline: float) -> None:
        """See `acquire`."""
        pause = 0.001
        may = "SELECT coalesce(has_table_privilege(to_regclass('shards'), 'INSERT'), TRUE)"
        if not connection.exec_driver_sql(may).scalar():
            raise ReadOnly(f"the catalog on {self._database.shown} may only be read by this user: ask its owner")
        while not connection.exec_driver_sql("SELECT pg_try_advisory_lock(?)", (self._key,)).scalar():
            if time.monotonic() > deadline:
                raise Locked(
                    f"{self._database.folder} is being written by {self._holder(connection)}: wait until it "
                    "has finished, or stop it"
                )
            connection.commit()
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        connection.commit()  # the lock is the session's; the next transaction sees what was committed before it

    def _holder(self, connection: sa.Connection) -> str:
        """Who has it."""
        query = (
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND "
            "granted AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = ?"
        )
        name = str(connection.exec_driver_sql(query, (self._key,)).scalar() or "rgunit another")
        name = name.removeprefix("rgunit ")
        return "this process" if name == _me() else f"process {name}"

    def release(self) -> None:
        """Give it back, if it is held."""
        if self._held is not None:
            connection, self._held = self._held, None
            try:
                connection.exec_driver_sql("SELECT pg_advisory_unlock(?)", (self._key,))
                connection.commit()
            except sa.exc.SQLAlchemyError:
                connection.invalidate()  # with the connection the lock ends
            with suppress(sa.exc.SQLAlchemyError):
                connection.close()

    def after_fork(self) -> None:
        """In a forked child: the lock stays its parent's, and so ends with that."""
        if self._held is not None:
            _OF_PARENTS.append(self._held)
            self._held = None


def _parsed(url: str) -> sa.URL:
    """The URL of a database; UsageError for any other, and for an option that PostgreSQL's library does not know."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: a port that is no number
        parsed = None
    if parsed is None or parsed.drivername != DRIVER or not parsed.database:
        raise UsageError(f"a catalog's URL is {DRIVER}://USER@HOST/DATABASE, which this is not")
    with suppress(ImportError):  # without psycopg nobody knows what there is
        from psycopg import pq

        known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
        if strange := sorted(set(parsed.query) - known):
            raise UsageError(f"the catalog's URL has the option {strange[0]!r}, which PostgreSQL does not know")
    return parsed


def _shown(url: sa.URL) -> str:
    """A URL in a message, without its passwords, wherever they stand."""
    secret = [name for name in url.query if "password" in name]
    return url.difference_update_query(secret).render_as_string(hide_password=True)


def _me() -> str:
    """This process, as others see it."""
    return f"{os.getpid()} on {socket.gethostname()}"


def last_id(connection: sa.Connection) -> int:
    """The largest id that was ever given, 0 if none was."""
    last, given = connection.exec_driver_sql("SELECT last_value, is_called FROM images_id_seq").one()
    return int(last) if given else 0


def reserve(connection: sa.Connection, last: int) -> None:
    """Make sure that no id up to `last` is ever given again."""
    if last > last_id(connection):
        connection.exec_driver_sql("SELECT setval('images_id_seq', ?)", (last,))


def insert(connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows by COPY, many times faster than one by one."""
    import psycopg

    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        raise sa.exc.DatabaseError(f"COPY {table}", None, error) from error

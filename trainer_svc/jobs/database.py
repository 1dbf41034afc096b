"""One database behind one engine: connections, transactions, and drivers' errors made ours."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tailorbird.errors import FailedPrecondition, InvalidArgument, Unavailable
from tailorbird.names import JobName
from trainer_svc.jobs import migrations
from trainer_svc.jobs.notices import SOURCE, Notices

_CHECK_SECONDS = 15.0
_CLOSE_SECONDS = 2.0
_ASIDE: dict[str, Any] = {"pool_size": 8, "max_overflow": 0}
_STATEMENT_SECONDS = 60.0
_IDLE_SECONDS = 15.0
_KEPT_ALIVE = (
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
)
"""After a minute the server gives up a connection whose machine is gone."""
_MAX_TEXT = 300
_DATA_EXCEPTION = "22"
"""The class of SQLSTATE; SQLite has none, and takes any value."""
_MIGRATION_LOCK = 0x7461696C6F72
_TENANT_LOCK = 0x746269
"""Any numbers that nobody else locks in this database."""


class DatabaseUnavailable(Unavailable):
    """The job store's database did not answer as it should."""

    default_reason = "DATABASE_UNAVAILABLE"


class ValueRefused(FailedPrecondition):
    """The job store's database keeps no such value, however often it is asked to."""

    default_reason = "VALUE_REFUSED"


class Database:
    """Opens transactions; `read` sees a snapshot, `write` may change it.

    IntegrityError passes through: only the statement's author knows what it means. A value that the
    database does not take becomes ValueRefused, every other error of the driver
    DatabaseUnavailable.
    """

    def __init__(self, url: str) -> None:
        try:
            named = {SOURCE: uuid.uuid4().hex[:8]}
            self._engine: AsyncEngine = create_async_engine(
                url, execution_options=named, connect_args=_limits_of(url)
            )
        except (SQLAlchemyError, ImportError) as error:
            raise InvalidArgument("database_url", f"cannot be used: {error}") from error
        except ValueError as error:
            # What it says may be a part of the password.
            raise InvalidArgument(
                "database_url",
                "its port is no number: in a password, characters such as : / @ are to be "
                "percent-encoded",
            ) from error
        # Bounded: who asks for more waits, and is refused after a while.
        self._aside = create_async_engine(
            url, connect_args=_limits_of(url), **(_ASIDE if url.startswith("postgresql") else {})
        )
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine.sync_engine, "connect", _sqlite_connect)
            sa.event.listen(self._engine.sync_engine, "begin", _sqlite_begin)
        elif self._engine.dialect.driver == "asyncpg":
            # A process that stands still in a transaction would keep its locks from all others.
            idle = f"SET idle_in_transaction_session_timeout = {_IDLE_SECONDS * 1000:.0f}"
            _begin_with(self._engine, f"{_KEPT_ALIVE}; {idle}")
            _begin_with(self._aside, _KEPT_ALIVE)

    def notices(self, heard: Callable[[JobName, str], None], gap: Callable[[], None]) -> Notices:
        """Return what hears of other trainers' changes; see Notices."""
        return Notices(self._engine, heard, gap)

    async def migrate(self) -> None:
        """Bring the schema to the newest version.

        Raises DatabaseUnavailable, with the driver's words, if the database cannot be reached.
        """
        await self._check()
        async with self.write() as connection:
            if connection.dialect.name == "postgresql":
                # Several trainers may start at once; SQLite lets one writer in anyway.
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            await connection.run_sync(migrations.upgrade)

    async def revision(self) -> str | None:
        """Return the name of the schema's last step; None of a database without our tables.

        Raises as `migrate`.
        """
        await self._check()
        async with self.read() as connection:
            return await connection.run_sync(migrations.revision)

    def later(self, seconds: float) -> datetime | sa.ColumnElement[datetime]:
        """Return the time in so many seconds by the database's clock, to be stored."""
        by = timedelta(seconds=seconds)
        if self._engine.dialect.name == "postgresql":
            return sa.func.clock_timestamp() + sa.literal(by)
        return datetime.now(UTC) + by

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end and rolled back on any error."""
        try:
            async with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (DBAPIError, SQLAlchemyError, OSError) as error:
            raise _failure(error) from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads."""
        try:
            async with self._engine.connect() as connection:
                yield await connection.execution_options(tailorbird_read=True)
        except (DBAPIError, SQLAlchemyError, OSError) as error:
            raise _failure(error) from error

    async def scrub(self) -> None:
        """Overwrite what was deleted from SQLite's files, where it would stay; no transaction.

        PostgreSQL does so by itself, with its next vacuum. Raises DatabaseUnavailable, also while
        somebody reads for long.
        """
        if self._engine.dialect.name != "sqlite":
            return
        try:
            async with self._engine.connect() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                await driver.execute("VACUUM")
                cursor = await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                busy, *_ = await cursor.fetchone()
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise DatabaseUnavailable(
                f"the job store's files are not rewritten: {error}"
            ) from error
        if busy:
            raise DatabaseUnavailable("the job store is read by somebody for long")

    async def aside(self) -> AsyncConnection | None:
        """Return a connection of its own, to be closed; None on SQLite.

        Those who hold one may need others of `read` and `write`: it is not taken from among them.
        """
        if self._engine.dialect.name != "postgresql":
            return None
        try:
            return await self._aside.connect()
        except (DBAPIError, SQLAlchemyError, OSError) as error:
            raise DatabaseUnavailable(f"the job store failed: {type(error).__name__}") from error

    async def _check(self) -> None:
        where = _where(self._engine.url)
        cause: Exception
        try:
            async with asyncio.timeout(_CHECK_SECONDS), self._engine.connect():
                return
        except TimeoutError as error:
            problem, cause = f"no connection within {_CHECK_SECONDS:g} s", error
        except Exception as error:
            # Drivers let their own errors through while they connect.
            origin = getattr(error, "orig", None) or error
            text = " ".join(str(origin).split())[:_MAX_TEXT]
            problem, cause = f"{type(origin).__name__}: {text}", error
        raise DatabaseUnavailable(
            f"the job store at {where} cannot be used: {problem}", setting="database_url"
        ) from cause

    async def close(self) -> None:
        """Close every connection; one to a database that hangs is left behind."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._engine.dispose()
                await self._aside.dispose()


def _failure(error: Exception) -> DatabaseUnavailable | ValueRefused:
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    if state.startswith(_DATA_EXCEPTION):
        return ValueRefused(f"the job store takes no such value (SQLSTATE {state})")
    return DatabaseUnavailable(f"the job store failed: {type(error).__name__}")


def _limits_of(url: str) -> dict[str, Any]:
    """Return what bounds each statement, so that a connection that leads nowhere any more ends."""
    if not url.startswith("postgresql+asyncpg"):
        return {}
    return {"timeout": _CHECK_SECONDS, "command_timeout": _STATEMENT_SECONDS}


async def clock(connection: AsyncConnection) -> datetime:
    """Return the time by the database's clock, which all trainers share, with its zone.

    SQLite has none of its own: it is this machine's, as the file is.
    """
    if connection.dialect.name == "postgresql":
        now: datetime = (
            await connection.execute(sa.select(sa.func.clock_timestamp()))
        ).scalar_one()
        return now
    return datetime.now(UTC)


async def take_turn(connection: AsyncConnection, tenant: str) -> None:
    """Wait for whoever sees to the same tenant, until our transaction ends; SQLite always does."""
    if connection.dialect.name == "postgresql":
        key = sa.func.hashtext(tenant)
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TENANT_LOCK, key)))


def _where(url: sa.URL) -> str:
    """Return `url` without what may be secret: a driver takes a password from the query, too."""
    # Of a password with an @ in it, the rest stands before the host.
    host = url.host and url.host.rpartition("@")[2]
    return url.set(host=host, query={}).render_as_string(hide_password=True)


def _begin_with(engine: AsyncEngine, statements: str) -> None:
    """Have every connection begin with them: some poolers refuse settings in its first message."""

    def connected(connection: Any, _: object) -> None:
        try:
            connection.run_async(lambda driver: driver.execute(statements))
        except OSError:
            raise
        except Exception as error:
            # The driver's own, which the pool passes on as it is: nobody here would know it.
            raise ConnectionError(f"{type(error).__name__}: {error}") from error

    sa.event.listen(engine.sync_engine, "connect", connected)


def _sqlite_connect(connection: Any, _: object) -> None:
    # The driver must not begin transactions by itself: `_sqlite_begin` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    # A writer that begins as a reader can meet SQLITE_BUSY half-way; IMMEDIATE waits up front.
    read = connection.get_execution_options().get("tailorbird_read", False)
    connection.exec_driver_sql("BEGIN" if read else "BEGIN IMMEDIATE")

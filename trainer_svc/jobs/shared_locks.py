"""Turns that all trainers on one database take: locks by key, held while a block runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.errors import Unavailable
from trainer_svc.datasets.locks import Locks
from trainer_svc.jobs.database import Database

_TURN_LOCK = 0x746273
"""Any number that nobody else locks by in this database."""

_log = structlog.get_logger(__name__)


class SharedLocks(Locks):
    """`Locks` among all trainers on a PostgreSQL; on SQLite, which one trainer has, among its own.

    A lock lasts as long as its connection: who loses that is not told, and goes on.
    """

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    @asynccontextmanager
    async def held(self, *keys: str) -> AsyncIterator[None]:
        """Hold every one of `keys`; raises Unavailable if the database cannot be asked."""
        async with super().held(*keys):
            connection = await self._database.aside()
            if connection is None:
                yield
                return
            try:
                try:
                    for key in sorted(set(keys)):
                        lock = sa.func.pg_advisory_lock(_TURN_LOCK, sa.func.hashtext(key))
                        await connection.execute(sa.select(lock))
                except (SQLAlchemyError, OSError) as error:
                    raise Unavailable(
                        "the turn of a dataset did not come", reason="DATABASE_UNAVAILABLE"
                    ) from error
                yield
            finally:
                await _released(connection)


async def _released(connection: AsyncConnection) -> None:
    """Give a connection back without its locks, or end it: they go with it."""
    try:
        await connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))
        await connection.close()
    except (SQLAlchemyError, OSError) as error:
        _log.warning("a lock's connection is lost", error=type(error).__name__)
        with suppress(SQLAlchemyError, OSError):
            await connection.invalidate()
        with suppress(SQLAlchemyError, OSError):
            await connection.close()

"""What other trainers on the same PostgreSQL change, heard at once: LISTEN and NOTIFY.

A notice is a hint: who misses one finds the change when it next looks. On SQLite there are no
others to hear of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tailorbird.names import JobName

CHANNEL = "tailorbird_jobs"
SOURCE = "tailorbird_source"
"""The execution option of an engine that names it in its notices."""
_SECONDS = (0.2, 1.0, 5.0)

_log = structlog.get_logger(__name__)


async def notify(connection: AsyncConnection, job: JobName, state: str) -> None:
    """Tell the others of a change, once the transaction is committed."""
    if connection.dialect.name == "postgresql":
        source = connection.engine.get_execution_options().get(SOURCE, "")
        payload = f"{source} {job.tenant} {job.job} {state}"
        await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, payload)))


class Notices:
    """Hears the notices of other engines' transactions, until it is cancelled.

    `heard` is called with the job and its state as stored; `gap` when some may have been missed.
    """

    def __init__(
        self, engine: AsyncEngine, heard: Callable[[JobName, str], None], gap: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._source = engine.get_execution_options().get(SOURCE, "")
        self._heard = heard
        self._gap = gap

    async def run(self) -> None:
        """Listen; connect anew, after growing pauses, whenever the connection is lost."""
        if self._engine.dialect.name != "postgresql":
            return
        failures = 0
        while True:
            try:
                await self._listen()
                failures = 0
            except Exception as error:
                # Drivers let their own errors through; whatever it is, polling goes on.
                _log.warning("cannot listen to the database", error=type(error).__name__)
            await asyncio.sleep(_SECONDS[min(failures, len(_SECONDS) - 1)])
            failures += 1

    async def _listen(self) -> None:
        """Return when the connection is lost that once listened."""
        lost = asyncio.Event()
        async with self._engine.connect() as connection:
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            driver.add_termination_listener(lambda _: lost.set())
            await driver.add_listener(CHANNEL, self._take)
            try:
                # What was changed before is not told.
                self._gap()
                await lost.wait()
            finally:
                # Not to the pool: it would hear for whoever has it next.
                await connection.invalidate()

    def _take(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        with suppress(ValueError):
            source, tenant, job, state = payload.split(" ")
            if source != self._source:
                self._heard(JobName(tenant, job), state)

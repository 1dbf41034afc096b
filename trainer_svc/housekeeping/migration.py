"""Migrating the job store without a trainer: before an upgrade's first pod starts."""

from __future__ import annotations

import asyncio
import time

import structlog

from trainer_svc.jobs.database import Database, DatabaseUnavailable

_log = structlog.get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0


async def migrate(url: str, seconds: float) -> None:
    """Bring the tables at `url` to this release's; a database that does not answer has `seconds`.

    Done again it changes nothing. Trainers that run, or start, may do the same meanwhile: one does
    it, and the others wait. Raises DatabaseUnavailable, as it was at the last try.
    """
    database = Database(url)
    try:
        until, pause = time.monotonic() + seconds, _FIRST_PAUSE
        while True:
            try:
                before = await database.revision()
                await database.migrate()
                after = await database.revision()
                break
            except DatabaseUnavailable as error:
                if time.monotonic() + pause > until:
                    raise
                _log.warning("the job store is tried again", error=error.message, seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        _log.info("job store migrated", before=before, after=after)
    finally:
        await database.close()

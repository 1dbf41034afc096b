"""`python -m trainer_svc.engine.preflight <fd>`: prepares one job's data, says so, and ends.

The inherited socket brings one Check and takes one Checked.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tailorbird.errors import TailorbirdError, Unavailable
from tailorbird.local_disk import is_disk_full
from tailorbird.object_store import open_store
from trainer_svc.engine.aside import serve_one
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.jobs.model import JobError
from trainer_svc.jobs.preflight import Preflight
from trainer_svc.protocol import Check, Checked


def main(fd: int) -> None:
    """Take the check, do it, and say how it ended; what nobody foresaw ends the process."""
    # Whatever asks for torch, whose import takes longest of all, does without.
    sys.modules["torch"] = None  # type: ignore[assignment]
    serve_one(fd, lambda line: _outcome(Check.model_validate_json(line)))


def _outcome(asked: Check) -> Checked:
    try:
        return Checked(preflight=asyncio.run(_checked(asked)))
    except TailorbirdError as error:
        return _refused(error)
    except OSError as error:
        if not is_disk_full(error):
            raise
        return _refused(Unavailable("the trainer's disk is full", reason="DISK_FULL"))


async def _checked(asked: Check) -> Preflight:
    from trainer_svc.engine.preflight.base import described
    from trainer_svc.engine.preflight.check import check

    settings = asked.settings
    base = await asyncio.to_thread(described, settings)
    store = open_store(settings.object_store, settings.store_retry_timeout)
    cache = DatasetCache(Path(settings.cache_dir), settings.cache_bytes)
    return await check(asked.assignment, base, store, cache, Path(settings.scratch_dir))


def _refused(error: TailorbirdError) -> Checked:
    told = JobError(reason=error.reason, message=error.message, metadata=error.metadata)
    return Checked(kind=type(error).__name__, error=told)


if __name__ == "__main__":
    main(int(sys.argv[1]))

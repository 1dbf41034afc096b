"""When a trainer collects: of several on one job store, about one in each interval."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from pydantic import AwareDatetime, ValidationError

from tailorbird.errors import DataCorrupt, NotFound, TailorbirdError
from trainer_svc.housekeeping.collector import Stores, collect, collect_caches
from trainer_svc.housekeeping.erased import forget_erased
from trainer_svc.housekeeping.model import OF_A_ROUND, Collected, Count, Kind, Rules, Tally
from trainer_svc.jobs.housekeeping import store_time
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.record import Record

_log = structlog.get_logger(__name__)

ROUND = "housekeeping/round.json"
"""Says when a round was begun last; two trainers that read it at once both collect, which does no
harm."""
_MAX_BYTES = 2**12


class _Begun(Record):
    begin_time: AwareDatetime


class Schedule:
    """Collects once in each `interval`, and keeps this machine's caches in order as often."""

    def __init__(
        self, stores: Stores, rules: Rules, metrics: TrainerMetrics, interval: timedelta
    ) -> None:
        self._stores = stores
        self._rules = rules
        self._metrics = metrics
        self._interval = interval
        # There from the start, at 0: what a rate is taken of must not begin at 1.
        for kind in OF_A_ROUND:
            metrics.count_collected(kind, 0, 0)

    async def run(self) -> None:
        """Collect for ever; what fails is logged, and tried again with the next look."""
        while True:
            # Often enough that a round is not much late; and not all trainers at once.
            pause = self._interval.total_seconds() / 4
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            await self.look()

    async def look(self) -> Collected | None:
        """Keep the caches in order, and collect if that is due; return what was collected."""
        try:
            await self._local()
            now = await store_time(self._stores.database)
            if not await self._due(now):
                return None
            begun = _Begun(begin_time=now).model_dump_json().encode()
            await self._stores.objects.put(ROUND, begun)
            found = await collect(self._stores, self._rules, dry_run=False)
        except TailorbirdError as error:
            self._metrics.collections.labels("failed").inc()
            _log.warning("nothing is collected", error=error.message)
            return None
        except Exception:
            self._metrics.collections.labels("failed").inc()
            _log.exception("nothing is collected")
            return None
        self._tell(found)
        return found

    async def _local(self) -> None:
        tally = Tally()
        await collect_caches(self._stores, self._rules, tally, dry_run=False)
        await forget_erased(self._stores, tally)
        self._count(tally.removed)

    async def _due(self, now: datetime) -> bool:
        with suppress(NotFound, DataCorrupt, ValidationError):
            data = await self._stores.objects.get(ROUND, _MAX_BYTES)
            begun = _Begun.model_validate_json(data)
            # One that was begun in the future was begun by another database's clock.
            return not timedelta(0) <= now - begun.begin_time < self._interval
        return True

    def _count(self, removed: Mapping[Kind, Count]) -> None:
        for kind, count in removed.items():
            self._metrics.count_collected(kind, count.things, count.bytes)

    def _tell(self, found: Collected) -> None:
        self._metrics.collections.labels("partly" if found.failure_count else "done").inc()
        self._count(found.removed)
        told = {
            f"{kind}_{what}": getattr(count, what)
            for kind, count in found.removed.items()
            for what in ("things", "bytes")
        }
        log = _log.warning if found.failure_count else _log.info
        log("collected", failures=found.failure_count, first=found.failures[:1], **told)

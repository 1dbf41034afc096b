"""Fair admission to one life of the engine: awaits what `Admission` decides.

Tenants take turns by tokens (fairness.py), adapters take turns in the engine's slots (slots.py),
and each tenant has limits (limits.py). Everything runs on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from serving_svc.generation.admission import Admission
from serving_svc.generation.limits import SchedulerLimits
from serving_svc.generation.slots import Slot, SlotState
from serving_svc.generation.ticket import Ticket, TicketState
from tailorbird.errors import TailorbirdError, Unavailable
from tailorbird.names import VersionName

__all__ = ["AdapterLoader", "Scheduler", "SchedulerLimits", "SchedulerSnapshot", "Ticket"]

_log = structlog.get_logger(__name__)


class AdapterLoader(Protocol):
    """Brings versions into the engine and out of it. Either may be cancelled by `close`."""

    async def load(self, version: VersionName) -> None:
        """Load and probe `version`. When it raises, nothing of it is left in the engine."""

    async def unload(self, version: VersionName) -> None:
        """Remove `version`; does not raise. On return nothing of it is left in the engine."""


@dataclass(frozen=True, slots=True)
class SchedulerSnapshot:
    """What the scheduler holds, for metrics. The version None is the base model."""

    waiting: Mapping[VersionName | None, int]
    """Requests and swaps that wait."""
    running: Mapping[VersionName | None, int]
    """Requests that are admitted."""
    resident: frozenset[VersionName]
    """Versions in the engine; none that is on its way."""
    oldest_wait_seconds: float


class Scheduler:
    """Admits requests fairly, and gives their versions slots."""

    def __init__(
        self,
        loader: AdapterLoader,
        limits: SchedulerLimits,
        *,
        slots: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loader = loader
        self._clock = clock
        self._core = Admission(self, limits, slots, clock)
        self._futures: dict[Ticket, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def admit(self, ticket: Ticket) -> None:
        """Return when `ticket` may run: its version is in the engine and stays until `leave`.

        Raises ResourceExhausted (QUEUE_FULL, TENANT_QUEUE_FULL, RATE_LIMITED, DEADLINE_TOO_SHORT),
        DeadlineExceeded, what loading the version raised, and what `close` was given. After an
        error, or when it is cancelled, nothing is held.
        """
        self._core.submit(ticket)
        if ticket.state is TicketState.ADMITTED:
            return
        loop = asyncio.get_running_loop()
        future = self._futures[ticket] = loop.create_future()
        timer = None
        if ticket.deadline is not None:
            timer = loop.call_later(ticket.deadline - self._clock(), self._core.expire, ticket)
        try:
            await future
        except BaseException:
            # Cancelled at the moment that it was granted, it is admitted by now.
            self._core.leave(ticket)
            raise
        finally:
            del self._futures[ticket]
            if timer is not None:
                timer.cancel()

    def charge(self, ticket: Ticket, tokens: int) -> None:
        """Count completion tokens as they come; after `leave` nothing is counted."""
        self._core.charge(ticket, tokens)

    def leave(self, ticket: Ticket) -> None:
        """The engine has ended with `ticket`. Once is enough, more do no harm."""
        self._core.leave(ticket)

    def pin(self, version: VersionName) -> None:
        """Keep `version` in its slot, now or once it is loaded.

        Raises FailedPrecondition: PINS_EXHAUSTED when all slots but one are pinned.
        """
        self._core.pin(version)

    def unpin(self, version: VersionName) -> None:
        """Let `version` leave again."""
        self._core.unpin(version)

    def pinned(self) -> frozenset[VersionName]:
        """Return the pinned versions."""
        return frozenset(self._core.slots.pins)

    def leases(self, version: VersionName) -> int:
        """Return how many admitted tickets, swaps among them, hold `version`."""
        slot = self._core.slots.get(version)
        return slot.holders if slot is not None else 0

    def retire(self, version: VersionName) -> None:
        """`version` is no longer routed: it is the first to leave, until a swap asks for it."""
        self._core.retire(version)

    async def discard(self, version: VersionName) -> None:
        """Take `version` out of the engine unless somebody holds it; return when it is out."""
        self._core.discard(version)
        # Without tasks: it was cancelled by `close` before it had begun.
        while self._tasks and self._is_unloading(version):
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def _is_unloading(self, version: VersionName) -> bool:
        slot = self._core.slots.get(version)
        return slot is not None and slot.state is SlotState.UNLOADING

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._core.queue.crowd.total

    @property
    def running(self) -> int:
        """Requests that are admitted."""
        return self._core.running

    @property
    def slots_used(self) -> int:
        """Slots taken: by versions that are loaded, or on their way in or out."""
        return len(self._core.slots)

    def snapshot(self) -> SchedulerSnapshot:
        """Return what is held now; looks at every queue, so not for every token."""
        core = self._core
        waiting: dict[VersionName | None, int] = {
            version: sum(map(len, lanes)) for version, lanes in core.queue.lanes.items()
        }
        for version, swaps in core.queue.swaps.items():
            waiting[version] = waiting.get(version, 0) + len(swaps)
        running: dict[VersionName | None, int] = {
            slot.version: slot.holders - slot.swaps
            for slot in core.slots
            if slot.holders > slot.swaps
        }
        base = core.running - sum(running.values())
        if base:
            running[None] = base
        loaded = (SlotState.READY, SlotState.DRAINING)
        since = [ticket.since for ticket in core.queue.oldest()]
        return SchedulerSnapshot(
            waiting,
            running,
            frozenset(slot.version for slot in core.slots if slot.state in loaded),
            self._clock() - min(since) if since else 0.0,
        )

    def close(self, error: TailorbirdError) -> None:
        """Admit nothing any more: all who wait, and all who come, get `error`; loads are cancelled.

        What is admitted stays so until it leaves.
        """
        self._core.close(error)
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        """Wait until what `close` cancelled has ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What the core has done; see `Effects`.

    def wake(self, ticket: Ticket, error: Exception | None) -> None:
        """End the wait of `ticket`, if it has one: it may be admitted at once."""
        future = self._futures.get(ticket)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def load(self, slot: Slot) -> None:
        """Begin to load the slot's version."""
        self._begin(self._load(slot))

    def unload(self, slot: Slot) -> None:
        """Begin to remove the slot's version."""
        self._begin(self._unload(slot))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, slot: Slot) -> None:
        try:
            await self._loader.load(slot.version)
        except asyncio.CancelledError:
            self._core.load_failed(slot, Unavailable(f"loading {slot.version} was cancelled"))
            raise
        except Exception as error:
            if not isinstance(error, TailorbirdError):
                _log.exception("adapter load failed", version=str(slot.version))
            self._core.load_failed(slot, error)
        else:
            self._core.loaded(slot)

    async def _unload(self, slot: Slot) -> None:
        try:
            await self._loader.unload(slot.version)
        except Exception:
            _log.exception("adapter unload failed", version=str(slot.version))
        finally:
            self._core.unloaded(slot)

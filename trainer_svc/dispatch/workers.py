"""The worker processes: each holds one base for its life, and ends when another is asked for.

One task a slot starts a worker, offers it to jobs, and starts the next one when it has been told
to. Who is started and who ends is decided by `Demand`, at the end of each look at the queue.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

import structlog

from tailorbird.errors import FailedPrecondition
from trainer_svc.bases import BaseModels
from trainer_svc.dispatch.backoff import LONGEST, Pauses
from trainer_svc.dispatch.demand import Demand, Stock
from trainer_svc.dispatch.executor import Executor, Worker, WorkerLost
from trainer_svc.dispatch.place import Place
from trainer_svc.dispatch.waiting import first
from trainer_svc.jobs.model import Job, JobError
from trainer_svc.metrics import TrainerMetrics

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_FOR_GOOD = frozenset({"BASE_UNSUPPORTED"})
"""Reasons that are about the base itself: another try would find the same."""
_NOT_THE_BASE = frozenset({"RAY_UNREACHABLE", "RAY_NO_ROOM", "RAY_OTHER_RELEASE"})
"""Reasons that are about where it was to be held, however often: the jobs wait."""


class State(Enum):
    """What a slot has."""

    FREE = auto()
    STARTING = auto()
    READY = auto()
    ENDING = auto()
    """A process that takes no more jobs."""


@dataclass
class Slot:
    """Room for one worker. `base` is the digest of what it holds, "" while it is free."""

    index: int
    state: State = State.FREE
    base: str = ""
    place: Place | None = None
    failed: bool = False
    """Whether the last worker here died."""
    ordered: asyncio.Event = field(default_factory=asyncio.Event)


class Workers:
    """Up to `count` workers, whose bases' weights have at most `memory` bytes together.

    A slot that nobody asks for anything holds the default base. Where no worker gets ready with
    that, and none ever did, the trainer ends; where none does with another base, the jobs that ask
    for it are refused for a while, and no other suffers from it.
    """

    def __init__(
        self,
        executor: Executor,
        bases: BaseModels,
        metrics: TrainerMetrics,
        *,
        count: int,
        memory: float,
        max_losses: int,
        stop: asyncio.Event,
        wake: Callable[[], None],
    ) -> None:
        self._executor = executor
        self._bases = bases
        self._metrics = metrics
        self._memory = memory
        self._max_losses = max_losses
        self._stop = stop
        self._wake = wake
        self.slots = [Slot(index) for index in range(count)]
        self.sizes = {base.digest: base.weight_bytes for base in bases.all}
        self._names = {base.digest: base.name for base in bases.all}
        self._pauses: Pauses[str] = Pauses()
        self._proven: set[str] = set()
        """The bases that a worker once got ready with."""
        self._failed_starts: Counter[str] = Counter()
        self._refusals: dict[str, JobError] = {}
        for name in self._names.values():
            metrics.workers.labels(name).set(0)

    def base_of(self, job: Job) -> str:
        """Return the digest of a job's base; "" if this trainer has it not."""
        base = self._bases.held(job.spec.base_model, job.spec.base_model_digest)
        return base.digest if base else ""

    def refused(self, job: Job) -> JobError | None:
        """Return why no worker holds the base of a job, nor tries to; None if one may."""
        base = self.base_of(job)
        if not base:
            return JobError(
                reason="BASE_NOT_HELD",
                message=f"the job is for the base {job.spec.base_model!r} "
                f"({job.spec.base_model_digest}); this trainer has {self._bases.names}, "
                "and resuming the job is of use where it has that one again",
            )
        held = any(slot.base == base and slot.state is State.READY for slot in self.slots)
        # A second worker may fail for want of memory: the jobs wait for the first.
        return self._refusals.get(base) if base in self._pauses.paused() and not held else None

    def next_pause_end(self) -> float | None:
        """Return in how many seconds a base may be tried again; None if none is held back."""
        return self._pauses.next_end()

    def stock(self) -> Stock:
        """Return what there is now."""
        taken = [slot for slot in self.slots if slot.state is not State.FREE]
        starting = [slot for slot in taken if slot.state is State.STARTING]
        return Stock(
            places=[each.place for each in taken if each.state is State.READY and each.place],
            starting=[slot.base for slot in starting],
            expected=[slot.base for slot in starting if not slot.failed],
            ending=[slot.base for slot in taken if slot.state is State.ENDING],
            slots=len(self.slots) - len(taken),
            memory=self._memory - sum(self.sizes[slot.base] for slot in taken),
            resting=self._pauses.paused(),
            broken=set(self._refusals),
        )

    def meet(self, demand: Demand) -> None:
        """Start and end workers as a look at the whole queue has it.

        Workers may have been lost since the look began, but none has been started.
        """
        if demand.base:
            self._start_in_free_slot(demand.base)
        for slot in self.slots:
            if slot.state is State.READY and slot.place in demand.ended:
                name = self._names[slot.base]
                _log.info("worker ends for another base", index=slot.index, base=name)
                slot.state = State.ENDING
                slot.place.retired.set()
        if not demand.settled and not demand.deferred:
            self._fill()

    def begin(self) -> None:
        """Start the first worker with the default base, which shows whether it can be held."""
        self._start_in_free_slot(self._bases.default.digest)

    def _fill(self) -> None:
        """Have the free slots hold the default base, unless something rests after a failure."""
        default = self._bases.default.digest
        while (stock := self.stock()).slots and not stock.resting:
            if self.sizes[default] > stock.memory:
                return
            self._start_in_free_slot(default)

    def _start_in_free_slot(self, base: str) -> None:
        slot = next(slot for slot in self.slots if slot.state is State.FREE)
        slot.state, slot.base = State.STARTING, base
        slot.ordered.set()

    async def keep(self, slot: Slot) -> None:
        """Have workers in `slot`, one after the other, until the trainer stops.

        Raises FailedPrecondition if the default base can be held by no worker at all.
        """
        while not self._stop.is_set():
            await self._unless_stopped(slot.ordered.wait())
            if self._stop.is_set():
                return
            slot.ordered.clear()
            try:
                await self._hold(slot)
            except WorkerLost as error:
                self._lost(slot, error)
            finally:
                slot.state, slot.base, slot.place = State.FREE, "", None
                self._wake()

    async def _hold(self, slot: Slot) -> None:
        """Offer a worker to jobs until it is lost, or ends for another base or for a stop."""
        worker = await self._unless_stopped(self._start(slot))
        if worker is None:
            return
        place = slot.place = Place(worker, slot.base)
        slot.state, slot.failed = State.READY, False
        ready = self._metrics.workers.labels(self._names[slot.base])
        ready.inc()
        memory = self._metrics.worker_memory
        memory.labels(str(slot.index)).set_function(lambda: place.memory)
        self._wake()
        try:
            await first(place.read(), self._let_go(place))
        finally:
            slot.state = State.ENDING
            ready.dec()
            memory.remove(str(slot.index))
            await worker.close()

    async def _let_go(self, place: Place) -> None:
        await first(place.retired.wait(), self._stopped_and_idle(place))

    async def _stopped_and_idle(self, place: Place) -> None:
        await self._stop.wait()
        await place.idle.wait()

    def _lost(self, slot: Slot, error: WorkerLost) -> None:
        base, place = slot.base, slot.place
        if place is not None and place.proven:
            self._pauses.forget(base)
        self._pauses.add(base, at_least=LONGEST if base in self._refusals else 1)
        self._metrics.worker_losses.inc()
        slot.failed = True
        name = self._names[base]
        _log.warning("worker lost", index=slot.index, base=name, error=error.message)

    async def _start(self, slot: Slot) -> Worker:
        """Start a worker with the slot's base, or raise WorkerLost.

        FailedPrecondition if it is the default base, none ever started with that, and it cannot.
        """
        base = slot.base
        try:
            worker = await self._executor.start(slot.index, base)
        except FailedPrecondition as error:
            default = base == self._bases.default.digest
            if base not in self._proven and (default or error.reason in _FOR_GOOD):
                self._give_up(base, error, told=error.message)
            else:
                # No memory, a folder that is not mounted yet: another try may fare better.
                self._count_failed_start(base, error)
            raise WorkerLost(error.message) from error
        except WorkerLost as error:
            self._count_failed_start(base, error)
            raise
        self._proven.add(base)
        del self._failed_starts[base]
        self._refusals.pop(base, None)
        return worker

    def _count_failed_start(self, base: str, error: FailedPrecondition | WorkerLost) -> None:
        ended = isinstance(error, WorkerLost) and error.from_outside
        if ended or error.reason in _NOT_THE_BASE:
            return
        self._failed_starts[base] += 1
        count = self._failed_starts[base]
        if count >= self._max_losses:
            told = f"{count} workers in a row ended before they were ready"
            cannot = FailedPrecondition(
                f"no worker can be started: {told}; the last: {error.message}",
                reason="WORKER_CANNOT_START",
            )
            self._give_up(base, cannot, told=f"{told}; the trainer's log says why")

    def _give_up(self, base: str, error: FailedPrecondition, *, told: str) -> None:
        """Let the jobs of a base hear why they cannot be trained; of the default, end the trainer.

        The default base, once a worker has held it, is never given up: its jobs wait. `told` is
        what tenants may read: no other library's words, which name paths and processes.
        """
        if base != self._bases.default.digest:
            name = self._names[base]
            _log.error("base given up", base=name, reason=error.reason, error=error.message)
            message = f"the base {name!r} cannot be loaded: {told}"
            self._refusals[base] = JobError(reason=error.reason, message=message)
        elif base not in self._proven:
            raise error

    async def _unless_stopped(self, action: Coroutine[Any, Any, _T]) -> _T | None:
        return await first(action, self._stop.wait())

"""Whatever happens in whatever order: every rule of the scheduler holds after each step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving_svc.generation.admission import Admission
from serving_svc.generation.scheduler import Scheduler, SchedulerLimits
from serving_svc.generation.slots import SlotState
from serving_svc.generation.ticket import Ticket, TicketState
from tailorbird.errors import (
    AdapterRefused,
    DeadlineExceeded,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
)
from tailorbird.names import VersionName
from tests.unit.serving_svc.generation.scheduling import version

TENANTS = ["a", "b", "c"]
VERSIONS = [version(number, tenant) for tenant in TENANTS for number in range(3)]
DRAW = st.integers(0, 10**6)


class Engine:
    """Loads and unloads when the test says so; checks what the engine may be asked."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.loaded: set[VersionName] = set()
        self.pending: dict[VersionName, asyncio.Future[None]] = {}
        self.scheduler: Scheduler

    async def load(self, version: VersionName) -> None:
        await self._work(version, unload=False)
        self.loaded.add(version)

    async def unload(self, version: VersionName) -> None:
        assert self.scheduler.leases(version) == 0
        assert version not in self.scheduler.pinned()
        await self._work(version, unload=True)
        self.loaded.remove(version)

    async def _work(self, version: VersionName, *, unload: bool) -> None:
        assert (version in self.loaded) == unload
        assert version not in self.pending
        future = self.pending[version] = asyncio.get_running_loop().create_future()
        assert len(self.loaded | set(self.pending)) <= self.slots
        try:
            await future
        finally:
            del self.pending[version]


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.problems: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.now = 0.0
        self.tasks: dict[Ticket, asyncio.Task[None]] = {}
        self.admitted: list[Ticket] = []
        self.closed = False

    @initialize(
        slots=st.integers(1, 3),
        max_running=st.integers(1, 4),
        max_waiting=st.integers(1, 8),
        tenant_max_running=st.sampled_from([None, 1, 2]),
        tenant_max_waiting=st.sampled_from([None, 1, 3]),
        rate=st.sampled_from([None, 1.0]),
        tokens=st.sampled_from([None, 600]),
    )
    def begin(
        self,
        slots: int,
        max_running: int,
        max_waiting: int,
        tenant_max_running: int | None,
        tenant_max_waiting: int | None,
        rate: float | None,
        tokens: int | None,
    ) -> None:
        self.limits = SchedulerLimits(
            max_running,
            max_waiting,
            tenant_max_running,
            tenant_max_waiting,
            rate,
            tokens,
            quantum_tokens=8,
            slot_quantum_tokens=24,
        )
        self.engine = Engine(slots)
        self.scheduler = Scheduler(self.engine, self.limits, slots=slots, clock=lambda: self.now)
        self.engine.scheduler = self.scheduler

    @property
    def core(self) -> Admission:
        return self.scheduler._core

    def act(self, *calls: Callable[[], object]) -> None:
        """Make the calls at one moment of the loop, and let it run until nothing is ready."""

        async def run() -> None:
            for call in calls:
                call()
            for _ in range(6):
                await asyncio.sleep(0)

        self.loop.run_until_complete(run())
        for ticket, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[ticket]
                self.ended(ticket, task)

    def ended(self, ticket: Ticket, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            assert ticket.state is TicketState.GONE
            return
        error = task.exception()
        if error is None:
            assert ticket.state is TicketState.ADMITTED
            self.admitted.append(ticket)
            return
        allowed = (AdapterRefused, ResourceExhausted, DeadlineExceeded)
        assert isinstance(error, Unavailable if self.closed else allowed), error
        assert ticket.state is not TicketState.ADMITTED

    def submit(self, ticket: Ticket) -> None:
        self.tasks[ticket] = self.loop.create_task(self.scheduler.admit(ticket))
        self.act()

    @rule(
        tenant=st.sampled_from(TENANTS),
        number=st.sampled_from([None, 0, 1, 2]),
        prompt=st.integers(0, 20),
        priority=st.integers(-1, 1),
        left=st.sampled_from([None, None, -1.0, 5.0]),
    )
    def request(
        self, tenant: str, number: int | None, prompt: int, priority: int, left: float | None
    ) -> None:
        name = None if number is None else version(number, tenant)
        deadline = None if left is None else self.now + left
        self.submit(Ticket(tenant, name, prompt, 16, priority, deadline=deadline))

    @rule(name=st.sampled_from(VERSIONS), replaces=st.sampled_from([None, *VERSIONS]))
    def swap(self, name: VersionName, replaces: VersionName | None) -> None:
        self.submit(Ticket(name.tenant, name, swap=True, replaces=replaces))

    @precondition(lambda self: self.admitted)
    @rule(draw=DRAW, tokens=st.integers(1, 12))
    def charge(self, draw: int, tokens: int) -> None:
        self.scheduler.charge(self.admitted[draw % len(self.admitted)], tokens)

    @precondition(lambda self: self.admitted)
    @rule(draw=DRAW)
    def leave(self, draw: int) -> None:
        ticket = self.admitted.pop(draw % len(self.admitted))
        self.act(partial(self.scheduler.leave, ticket), partial(self.scheduler.leave, ticket))

    @precondition(lambda self: self.admitted and self.tasks)
    @rule(draw=DRAW, other=DRAW)
    def leave_and_cancel_at_once(self, draw: int, other: int) -> None:
        """Who is granted the place may be cancelled before it hears of it."""
        ticket = self.admitted.pop(draw % len(self.admitted))
        task = list(self.tasks.values())[other % len(self.tasks)]
        self.act(partial(self.scheduler.leave, ticket), task.cancel)

    @precondition(lambda self: self.admitted and self.tasks)
    @rule(draw=DRAW, other=DRAW)
    def cancel_and_leave_at_once(self, draw: int, other: int) -> None:
        ticket = self.admitted.pop(draw % len(self.admitted))
        task = list(self.tasks.values())[other % len(self.tasks)]
        self.act(task.cancel, partial(self.scheduler.leave, ticket))

    @precondition(lambda self: self.tasks)
    @rule(draw=DRAW)
    def cancel(self, draw: int) -> None:
        self.act(list(self.tasks.values())[draw % len(self.tasks)].cancel)

    @precondition(lambda self: self.tasks)
    @rule(draw=DRAW)
    def expire(self, draw: int) -> None:
        self.act(partial(self.core.expire, list(self.tasks)[draw % len(self.tasks)]))

    @precondition(lambda self: self.engine.pending)
    @rule(draw=DRAW, fails=st.sampled_from([False, False, True]))
    def engine_ends(self, draw: int, fails: bool) -> None:
        name = list(self.engine.pending)[draw % len(self.engine.pending)]
        future = self.engine.pending[name]
        if fails and name not in self.engine.loaded:
            refusal = AdapterRefused("no", reason="LOAD_FAILED")
            self.act(partial(future.set_exception, refusal))
        else:
            self.act(partial(future.set_result, None))

    @rule(name=st.sampled_from(VERSIONS))
    def pin(self, name: VersionName) -> None:
        pins = self.scheduler.pinned()
        if len(pins) < self.engine.slots - 1 or name in pins:
            self.act(partial(self.scheduler.pin, name))
        else:
            with pytest.raises(FailedPrecondition):
                self.scheduler.pin(name)

    @rule(name=st.sampled_from(VERSIONS))
    def unpin(self, name: VersionName) -> None:
        self.act(partial(self.scheduler.unpin, name))

    @rule(name=st.sampled_from(VERSIONS))
    def retire(self, name: VersionName) -> None:
        self.scheduler.retire(name)

    @rule(seconds=st.floats(0.1, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def nothing_went_wrong_unseen(self) -> None:
        assert not self.problems

    @precondition(lambda self: hasattr(self, "scheduler"))
    @invariant()
    def the_books_are_right(self) -> None:
        core, queue = self.core, self.core.queue
        requests = [ticket for ticket in self.admitted if not ticket.swap]
        waiting = [ticket for ticket in self.tasks if not ticket.swap]
        assert self.scheduler.running == len(requests) <= self.limits.max_running
        assert self.scheduler.waiting == len(waiting) <= self.limits.max_waiting
        assert set(queue.tickets()) == set(self.tasks)
        snapshot = self.scheduler.snapshot()
        assert sum(snapshot.waiting.values()) == len(self.tasks)
        assert sum(snapshot.running.values()) == len(requests)
        assert set(queue.accounts) == {t.tenant for t in [*requests, *waiting]}
        for tenant in TENANTS:
            mine = sum(ticket.tenant == tenant for ticket in requests)
            assert mine <= (self.limits.tenant_max_running or mine)
            queued = sum(ticket.tenant == tenant for ticket in waiting)
            assert queued <= (self.limits.tenant_max_waiting or queued)
        assert self.scheduler.slots_used == len(self.engine.loaded | set(self.engine.pending))
        for slot in core.slots:
            held = [t for t in self.admitted if t.version == slot.version]
            assert slot.holders == len(held) == self.scheduler.leases(slot.version)
            assert slot.swaps == sum(ticket.swap for ticket in held)
            of_it = [t for t in waiting if t.version == slot.version]
            assert slot.early == sum(ticket.number <= slot.last_early for ticket in of_it)
        for ticket in self.admitted:
            assert ticket.version is None or ticket.version in self.engine.loaded
            assert ticket.version not in self.engine.pending
        assert len(self.scheduler.pinned()) < self.engine.slots

    def may_run(self, ticket: Ticket) -> bool:
        most = self.limits.tenant_max_running
        running = sum(t.tenant == ticket.tenant and not t.swap for t in self.admitted)
        return most is None or running < most

    @precondition(lambda self: hasattr(self, "scheduler"))
    @invariant()
    def nobody_waits_beside_what_it_needs(self) -> None:
        slots = {slot.version: slot for slot in self.core.slots}
        able = [ticket for ticket in self.tasks if ticket.swap or self.may_run(ticket)]
        wanted = {t.version for t in able if t.version is not None and t.version not in slots}
        for ticket in self.tasks:
            slot = slots.get(ticket.version) if ticket.version is not None else None
            if ticket.swap:
                assert slot is None or slot.state in (SlotState.LOADING, SlotState.UNLOADING)
            elif self.scheduler.running < self.limits.max_running and ticket in able:
                assert ticket.version is not None
                assert slot is None or slot.state is not SlotState.READY
        leaving = (SlotState.UNLOADING, SlotState.DRAINING)
        freeing = sum(slot.state in leaving for slot in slots.values())
        if wanted:
            assert len(slots) == self.engine.slots
            for slot in slots.values():
                useful = any(ticket.version == slot.version for ticket in able)
                idle = slot.state is SlotState.READY and not slot.holders and not useful
                assert not idle or slot.version in self.scheduler.pinned() or freeing >= len(wanted)
        else:
            assert not self.core.slots.draining()
        assert all(slot.holders for slot in self.core.slots.draining())

    def teardown(self) -> None:
        try:
            if hasattr(self, "scheduler"):
                self.everything_ends()
                self.close()
            assert not self.problems
        finally:
            self.loop.close()

    def everything_ends(self) -> None:
        for _ in range(200):
            if not (self.tasks or self.admitted or self.engine.pending):
                break
            ends = [partial(future.set_result, None) for future in self.engine.pending.values()]
            leaves = [partial(self.scheduler.leave, ticket) for ticket in self.admitted]
            self.admitted.clear()
            self.act(*ends, *leaves)
            self.the_books_are_right()
            self.nobody_waits_beside_what_it_needs()
        assert not self.tasks, "somebody waits for ever"
        assert not self.core.queue.lanes
        assert self.core.queue.demand == 0
        assert all(quota.held == 0 for quota in self.core.quotas._quotas.values())

    def close(self) -> None:
        self.submit(Ticket("a", VERSIONS[0], swap=True))
        self.submit(Ticket("a", VERSIONS[1], swap=True))
        self.closed = True
        error = Unavailable("closed", reason="CLOSED")
        self.scheduler.close(error)
        self.loop.run_until_complete(self.scheduler.aclose())
        self.act()
        assert not self.tasks
        assert not self.engine.pending
        self.act(*(partial(self.scheduler.leave, ticket) for ticket in self.admitted))
        self.admitted.clear()
        self.submit(Ticket("a", None))
        assert not self.tasks
        assert not self.admitted
        assert not self.core.queue.swaps


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestScheduler = Machine.TestCase

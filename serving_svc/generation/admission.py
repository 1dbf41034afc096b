"""Who is admitted, and which version gets a slot: every decision, and nothing that waits.

The scheduler's core. It is told what happens (a ticket comes or leaves, a version was loaded or
removed) and at once does all that has become possible. Given a clock it is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from serving_svc.generation.bounds import Bounds
from serving_svc.generation.fairness import Account
from serving_svc.generation.limits import Quotas, SchedulerLimits
from serving_svc.generation.queue import Queue
from serving_svc.generation.slots import Slot, SlotState, SlotTable
from serving_svc.generation.ticket import Ticket, TicketState
from tailorbird.errors import DeadlineExceeded, TailorbirdError
from tailorbird.names import VersionName

_log = structlog.get_logger(__name__)


class Effects(Protocol):
    """What the core has done by others. Each returns at once; calls back come later."""

    def wake(self, ticket: Ticket, error: Exception | None) -> None:
        """Tell who waits with `ticket` that it is admitted, or why it never will be."""

    def load(self, slot: Slot) -> None:
        """Load the slot's version, then call `loaded` or `load_failed`."""

    def unload(self, slot: Slot) -> None:
        """Remove the slot's version from the engine, then call `unloaded`."""


class Admission:
    """Running places, slots and the queue of one life of the engine."""

    def __init__(
        self, effects: Effects, limits: SchedulerLimits, slots: int, clock: Callable[[], float]
    ) -> None:
        self._effects = effects
        self._max_running = limits.max_running
        self._clock = clock
        self._last_number = 0
        self._closed: TailorbirdError | None = None
        self.slots = SlotTable(slots, limits.quantum_tokens, limits.slot_quantum_tokens)
        self.queue = Queue(limits, self.slots)
        self.quotas = Quotas(limits)
        self.bounds = Bounds(limits, self.queue.crowd)
        self.running = 0
        self.total = 0
        """Tokens that the engine has served."""

    def submit(self, ticket: Ticket) -> None:
        """Take `ticket`: on return it is admitted, or it waits. Raises what `admit` raises."""
        if self._closed is not None:
            raise self._closed
        if ticket.state is not TicketState.NEW:
            raise ValueError("a ticket is used once")
        self._last_number += 1
        ticket.number, ticket.since = self._last_number, self._clock()
        if ticket.deadline is not None and ticket.deadline <= ticket.since:
            raise DeadlineExceeded("the deadline had passed before the queue was reached")
        if ticket.swap:
            self._submit_swap(ticket)
        else:
            self._submit_request(ticket)
        self._settle()

    def leave(self, ticket: Ticket) -> None:
        """Take back what `ticket` holds, or take it out of the queue."""
        if ticket.state is TicketState.WAITING:
            self._withdraw(ticket)
        elif ticket.state is TicketState.ADMITTED:
            self._release(ticket)
        else:
            return
        self._settle()

    def expire(self, ticket: Ticket) -> None:
        """The ticket's deadline has come: if it still waits, it does so no more."""
        if ticket.state is TicketState.WAITING:
            waited = self._clock() - ticket.since
            self._fail(
                ticket, DeadlineExceeded(f"the deadline came after {waited:.2f} s in the queue")
            )
            self._settle()

    def charge(self, ticket: Ticket, tokens: int) -> None:
        """Count tokens served to an admitted request. Called for every token: decides nothing."""
        account = ticket.account
        if account is None:
            return
        account.served += tokens
        self.total += tokens
        if ticket.slot is not None:
            ticket.slot.served += tokens
        if ticket.quota is not None and ticket.quota.tokens is not None:
            ticket.quota.tokens.level -= tokens

    def loaded(self, slot: Slot) -> None:
        """The slot's version is in the engine and may be used."""
        self.slots.open(slot, self.total, self._last_number)
        for ticket in self.queue.take_swaps(slot.version):
            self._admit_swap(ticket, slot)
            self._effects.wake(ticket, None)
        self.queue.sort(slot.version)
        self._settle()

    def load_failed(self, slot: Slot, error: Exception) -> None:
        """The slot's version is not in the engine: all who wait for it get `error`."""
        for ticket in self.queue.tickets_for(slot.version):
            self._fail(ticket, error)
        self.unloaded(slot)

    def unloaded(self, slot: Slot) -> None:
        """The slot's version has left the engine. Who came for it meanwhile queues for a slot."""
        self.slots.release(slot)
        self.queue.sort(slot.version)
        self._settle()

    def pin(self, version: VersionName) -> None:
        """Never let `version` leave once it is loaded; FailedPrecondition: PINS_EXHAUSTED."""
        self.slots.pin(version)
        slot = self.slots.get(version)
        if slot is not None and slot.state is SlotState.DRAINING:
            self._reopen(slot)
        self._settle()

    def unpin(self, version: VersionName) -> None:
        """Let `version` leave again."""
        self.slots.unpin(version)
        self._settle()

    def retire(self, version: VersionName) -> None:
        """Let `version` leave before others, until a swap asks for it again."""
        slot = self.slots.get(version)
        if slot is not None:
            slot.retired = True

    def discard(self, version: VersionName) -> None:
        """Let `version` leave now, wanted or not, unless somebody holds it."""
        slot = self.slots.get(version)
        if slot is not None and slot.state is SlotState.READY and not slot.holders:
            self._empty(slot)

    def close(self, error: TailorbirdError) -> None:
        """Admit nothing any more: all who wait, and all who come, get `error`."""
        self._closed = error
        for ticket in self.queue.tickets():
            self._fail(ticket, error)

    def _submit_swap(self, ticket: Ticket) -> None:
        version = ticket.version
        slot = self.slots.get(version) if version is not None else None
        if version is None:
            ticket.state = TicketState.ADMITTED
        elif slot is not None and slot.state in (SlotState.READY, SlotState.DRAINING):
            # Also beside a slot that drains: who holds it already may be the one who asks.
            self._admit_swap(ticket, slot)
        else:
            ticket.state = TicketState.WAITING
            self.queue.add_swap(ticket, version)

    def _submit_request(self, ticket: Ticket) -> None:
        quota = self.quotas.take(ticket.tenant, ticket.since)
        account = self.queue.accounts.get(ticket.tenant)
        if not self._runs_at_once(ticket, account):
            self.bounds.check(ticket, len(account.waiting) if account else 0)
            if self.bounds.is_full:
                self._drop_newest(self.bounds.largest())
        if quota is not None:
            quota.held += 1
            ticket.quota = quota
        ticket.state = TicketState.WAITING
        self.queue.add(ticket)

    def _runs_at_once(self, ticket: Ticket, account: Account | None) -> bool:
        return (
            self.running < self._max_running
            and self.queue.is_open(ticket.version)
            and (account is None or not self.queue.is_capped(account))
        )

    def _drop_newest(self, account: Account) -> None:
        newest = next(reversed(account.waiting.values()))
        self._fail(newest, self.bounds.queue_full(account.tenant, len(account.waiting)))

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self._withdraw(ticket)
        self._effects.wake(ticket, error)

    def _withdraw(self, ticket: Ticket) -> None:
        ticket.state = TicketState.GONE
        if ticket.account is not None:
            self.queue.remove(ticket, ticket.account)
            self._settle_up(ticket, ticket.account)
        elif ticket.version is not None:
            self.queue.remove_swap(ticket, ticket.version)

    def _release(self, ticket: Ticket) -> None:
        ticket.state = TicketState.GONE
        account, slot = ticket.account, ticket.slot
        if account is not None:
            full = self.running >= self._max_running
            self.bounds.pace.left(self._clock(), full and self.queue.for_place > 0)
            self.running -= 1
            account.running -= 1
            self.queue.refresh(account)
            self._settle_up(ticket, account)
        if slot is not None:
            ticket.slot = None
            slot.holders -= 1
            slot.swaps -= ticket.swap
            if slot.state is SlotState.DRAINING and not slot.holders:
                self._empty(slot)

    def _settle_up(self, ticket: Ticket, account: Account) -> None:
        """Nothing is charged to the ticket any more."""
        ticket.account = None
        if ticket.quota is not None:
            ticket.quota.held -= 1
            ticket.quota = None
        self.queue.forget_if_idle(account)

    def _settle(self) -> None:
        """Do all that can be done now."""
        if self._closed is not None:
            return
        self._share_slots()
        while self._admit_next():
            # Each admission counts: against its slot's turn, and its tenant's places.
            self._share_slots()

    def _admit_next(self) -> bool:
        ticket = self.queue.next_for_place() if self.running < self._max_running else None
        if ticket is None or ticket.account is None:
            return False
        account = ticket.account
        ticket.state = TicketState.ADMITTED
        if ticket.version is not None:
            self._hold(ticket, self.slots.get(ticket.version))
        # At least one token: who asks for nothing has had a turn all the same.
        self.charge(ticket, max(1, ticket.prompt_tokens))
        self.queue.placed(account)
        self.running += 1
        account.running += 1
        self.queue.remove(ticket, account)
        self._effects.wake(ticket, None)
        return True

    def _admit_swap(self, ticket: Ticket, slot: Slot) -> None:
        ticket.state = TicketState.ADMITTED
        slot.retired = False
        slot.swaps += 1
        self._hold(ticket, slot)

    def _hold(self, ticket: Ticket, slot: Slot | None) -> None:
        if slot is not None:
            ticket.slot = slot
            slot.holders += 1
            slot.unserved = slot.unserved and ticket.swap
            self.slots.touch(slot)

    def _share_slots(self) -> None:
        """Give free slots to the versions that want one, and see that as many become free."""
        while self.slots.has_free and self.queue.demand:
            slot = self.slots.take(self.queue.next_for_slot())
            self.queue.sort(slot.version)
            self._effects.load(slot)
        demand = self.queue.demand
        if not demand and not self.slots.draining():
            return
        freeing = self.slots.freeing(self.total)
        if freeing < demand:
            freeing = self._free_more(demand, freeing)
        self._reopen_surplus(demand, freeing)

    def _free_more(self, demand: int, freeing: int) -> int:
        """See that as many slots become free as are wanted, if they may; return how many will."""
        usable = self.queue.is_usable
        for slot in self.slots.idle(usable)[: demand - freeing]:
            self._empty(slot)
            freeing += 1
        swaps = self.queue.swaps_wanted
        if freeing < swaps:
            for slot in self.slots.giving_way(self.queue.replaced, usable)[: swaps - freeing]:
                self._vacate(slot)
                freeing += 1
                if self.slots.count == 1:
                    _log.info("the only slot drains for a swap", version=str(slot.version))
        if freeing < demand:
            for slot in self.slots.spent(usable, self.total)[: demand - freeing]:
                self._vacate(slot)
                freeing += 1
        return freeing

    def _vacate(self, slot: Slot) -> None:
        if not slot.holders:
            self._empty(slot)
            return
        slot.closed_at = self.total
        self.slots.move(slot, SlotState.DRAINING)
        self.queue.sort(slot.version)

    def _reopen_surplus(self, demand: int, freeing: int) -> None:
        """Take back what need not drain any more, last closed first."""
        draining = self.slots.draining()
        surplus = len(draining) if not demand else freeing - demand
        if surplus > 0:
            draining.sort(key=lambda slot: slot.closed_at, reverse=True)
            for slot in draining[:surplus]:
                self._reopen(slot)

    def _reopen(self, slot: Slot) -> None:
        self.slots.move(slot, SlotState.READY)
        self.queue.sort(slot.version)

    def _empty(self, slot: Slot) -> None:
        if self._closed is None:
            self.slots.move(slot, SlotState.UNLOADING)
            self.queue.sort(slot.version)
            self._effects.unload(slot)

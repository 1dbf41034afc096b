"""What the scheduler's tests have in common: a core whose loads end when the test says so."""

from __future__ import annotations

from serving_svc.generation.admission import Admission
from serving_svc.generation.limits import SchedulerLimits
from serving_svc.generation.slots import Slot, SlotState
from serving_svc.generation.ticket import Ticket, TicketState
from tailorbird.names import VersionName


def version(number: int, tenant: str = "acme") -> VersionName:
    return VersionName(tenant, f"adapter-{number}", f"20260101T{number:06d}-job-1")


def request(tenant: str = "acme", number: int | None = None, **values: int | float) -> Ticket:
    """A request of `tenant`, for its adapter `number` or for the base."""
    name = None if number is None else version(number, tenant)
    return Ticket(tenant, name, **values)  # type: ignore[arg-type]


def swap(number: int, tenant: str = "acme", replaces: VersionName | None = None) -> Ticket:
    return Ticket(tenant, version(number, tenant), swap=True, replaces=replaces)


class World:
    """A core, its clock, and an engine in which a load or unload lasts until `finish` or `run`."""

    def __init__(self, slots: int = 1, **limits: int | float) -> None:
        self.now = 1000.0
        self.core = Admission(
            self,
            SchedulerLimits(**limits),  # type: ignore[arg-type]
            slots,
            lambda: self.now,
        )
        self.coming: list[Slot] = []
        self.going: list[Slot] = []
        self.engine: set[VersionName] = set()
        self.loads: list[VersionName] = []
        self.unloads: list[VersionName] = []
        self.errors: dict[Ticket, Exception | None] = {}
        self.admitted: list[Ticket] = []

    def wake(self, ticket: Ticket, error: Exception | None) -> None:
        assert ticket not in self.errors, "woken twice"
        self.errors[ticket] = error
        if error is None:
            self.admitted.append(ticket)

    def load(self, slot: Slot) -> None:
        assert slot.version not in self.engine, "loaded twice"
        self.engine.add(slot.version)
        assert len(self.engine) <= self.core.slots.count, "more adapters than slots"
        self.coming.append(slot)
        self.loads.append(slot.version)

    def unload(self, slot: Slot) -> None:
        assert slot.holders == 0, "unloaded under an admitted ticket"
        assert slot.version not in self.core.slots.pins, "unloaded although pinned"
        self.going.append(slot)
        self.unloads.append(slot.version)

    def finish(self, slot: Slot, error: Exception | None = None) -> None:
        """End the slot's load or unload."""
        if slot in self.going:
            self.going.remove(slot)
            self.engine.remove(slot.version)
            self.core.unloaded(slot)
            return
        self.coming.remove(slot)
        if error is None:
            self.core.loaded(slot)
        else:
            self.engine.remove(slot.version)
            self.core.load_failed(slot, error)

    def run(self) -> None:
        """End every load and unload, and those that follow."""
        while self.coming or self.going:
            self.finish((self.going or self.coming)[0])

    def submit(self, *tickets: Ticket) -> None:
        """Submit, and let loads end at once."""
        for ticket in tickets:
            self.core.submit(ticket)
            self.run()

    def leave(self, *tickets: Ticket) -> None:
        for ticket in tickets:
            self.core.leave(ticket)
            self.run()

    def serve(self, ticket: Ticket, tokens: int) -> None:
        """Serve an admitted ticket so many tokens, one at a time, and let it leave."""
        assert ticket.state is TicketState.ADMITTED
        for _ in range(tokens):
            self.core.charge(ticket, 1)
        self.leave(ticket)

    def is_admitted(self, ticket: Ticket) -> bool:
        return ticket.state is TicketState.ADMITTED

    def state(self, name: VersionName) -> SlotState | None:
        slot = self.core.slots.get(name)
        return slot.state if slot is not None else None

    def assert_empty(self) -> None:
        """Nothing is left behind by tickets that have all gone."""
        core = self.core
        assert core.running == 0
        assert core.queue.crowd.total == 0
        assert not core.queue.accounts
        assert not core.queue.lanes
        assert not core.queue.swaps
        assert core.queue.demand == 0
        assert core.queue.for_place == 0
        assert all(slot.holders == 0 and slot.swaps == 0 for slot in core.slots)
        assert not core.slots.draining()

"""The tickets that wait: by tenant and version, and what they wait for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from serving_svc.generation.fairness import Account, Crowd, Lane, Ring, Rounds
from serving_svc.generation.limits import SchedulerLimits
from serving_svc.generation.slots import Slot, SlotState, SlotTable
from serving_svc.generation.ticket import Ticket
from tailorbird.names import VersionName

LOAD_TOKENS = 128
"""What a load costs the tenant for whom it is done: about what the engine serves in its time."""

_TURNS_A_ROUND = 4
"""Longest turns in slots that a tenant may be ahead by, before others go first who came later: what
many wait for is then loaded when it has waited longest, and not after all that few wait for."""


class Queue:
    """Waiting requests and swaps. Nothing here looks at all of them: there may be thousands."""

    def __init__(self, limits: SchedulerLimits, slots: SlotTable) -> None:
        self._tenant_max_running = limits.tenant_max_running
        self._slots = slots
        slot_round = _TURNS_A_ROUND * limits.slot_quantum_tokens
        self._rounds = Rounds(limits.quantum_tokens, slot_round)
        self._for_place = Ring(self._rounds)
        # Both with one floor: a tenant's tokens are on its scale.
        self._for_slot = Ring(self._rounds, slot_round, _oldest_wanting)
        self._wanted = 0
        self._swap_was_last = False
        self._swaps_wanted: OrderedDict[VersionName, None] = OrderedDict()
        self.crowd = Crowd()
        self.accounts: dict[str, Account] = {}
        # By version, the lanes in it: a set in order of arrival.
        self.lanes: dict[VersionName | None, dict[Lane, None]] = {}
        self.swaps: OrderedDict[VersionName, list[Ticket]] = OrderedDict()

    def is_open(self, version: VersionName | None) -> bool:
        """Whether requests for `version` need nothing but a place."""
        if version is None:
            return True
        slot = self._slots.get(version)
        return slot is not None and slot.state is SlotState.READY

    def is_capped(self, account: Account) -> bool:
        """Whether the tenant has as many requests running as it may."""
        most = self._tenant_max_running
        return most is not None and account.running >= most

    def is_usable(self, slot: Slot) -> bool:
        """Whether a request waits for the slot's version whose tenant may run one more."""
        return self._any_may_run(slot.lanes)

    def tickets(self) -> list[Ticket]:
        """Return all that wait."""
        requests = [t for account in self.accounts.values() for t in account.waiting.values()]
        return requests + [t for swaps in self.swaps.values() for t in swaps]

    def oldest(self) -> list[Ticket]:
        """Return the tickets among which is the one that has waited longest."""
        requests = [next(iter(a.waiting.values())) for a in self.accounts.values() if a.waiting]
        return requests + [swaps[0] for swaps in self.swaps.values()]

    def tickets_for(self, version: VersionName) -> list[Ticket]:
        """Return all that wait for `version`."""
        requests = [t for lane in self.lanes.get(version, ()) for t in lane.tickets()]
        return requests + self.swaps.get(version, [])

    def add(self, ticket: Ticket) -> None:
        """Queue a request."""
        account = self.accounts.get(ticket.tenant)
        if account is None:
            account = self.accounts[ticket.tenant] = Account(ticket.tenant, self._rounds.floor)
        if not account.waiting:
            self._rounds.rejoin(account)
        ticket.account = account
        account.waiting[ticket.number] = ticket
        self.crowd.added(account)
        lane = account.lanes.get(ticket.version)
        if lane is None:
            lane = account.lanes[ticket.version] = Lane(account, ticket.version)
            self._lanes_of(ticket.version)[lane] = None
        lane.add(ticket)
        self._sort(lane)

    def remove(self, ticket: Ticket, account: Account) -> None:
        """Take a request out."""
        del account.waiting[ticket.number]
        slot = self._slots.get(ticket.version) if ticket.version is not None else None
        if slot is not None and ticket.number <= slot.last_early:
            slot.early -= 1
        self.crowd.removed(account)
        lane = account.lanes[ticket.version]
        lane.remove(ticket)
        if not lane:
            del account.lanes[ticket.version]
            lanes = self.lanes[ticket.version]
            del lanes[lane]
            if not lanes:
                del self.lanes[ticket.version]
        self._sort(lane)

    def add_swap(self, ticket: Ticket, version: VersionName) -> None:
        """Queue a swap."""
        self.swaps.setdefault(version, []).append(ticket)
        self.sort(version)

    def remove_swap(self, ticket: Ticket, version: VersionName) -> None:
        """Take a swap out."""
        swaps = self.swaps[version]
        swaps.remove(ticket)
        if not swaps:
            del self.swaps[version]
        self.sort(version)

    def take_swaps(self, version: VersionName) -> list[Ticket]:
        """Take out all swaps that wait for `version`."""
        return self.swaps.pop(version, [])

    def sort(self, version: VersionName) -> None:
        """The state of the version's slot has changed: so has what its tickets wait for."""
        if version not in self.swaps or self._slots.get(version) is not None:
            self._swaps_wanted.pop(version, None)
        else:
            self._swaps_wanted[version] = None
        lanes = self.lanes.get(version, {})
        slot = self._slots.get(version)
        if slot is not None:
            slot.lanes = lanes
        for lane in lanes:
            self._sort(lane)

    def refresh(self, account: Account) -> None:
        """What the tenant waits for, or how many of its requests run, has changed."""
        may_run = not self.is_capped(account)
        self._for_place.set(account, may_run and bool(account.open))
        self._for_slot.set(account, may_run and bool(account.wanting))
        wanted = len(account.wanting) if may_run else 0
        self._wanted += wanted - account.wanted
        account.wanted = wanted

    def forget_if_idle(self, account: Account) -> None:
        """Drop the tenant's account, and with it its debt, if it has nothing here."""
        if not account.waiting and not account.running:
            del self.accounts[account.tenant]

    @property
    def for_place(self) -> int:
        """Tenants with a request that waits for nothing but a place."""
        return len(self._for_place)

    def next_for_place(self) -> Ticket | None:
        """Return the request whose turn it is to get a place.

        Of its tenant's, one whose version was loaded and has served nobody yet goes first, lest a
        tenant hold a slot that it does not use; then by priority, then by arrival.
        """
        account = self._for_place.first()
        if account is None:
            return None
        return min(account.open.values(), key=self._turn).first

    def placed(self, account: Account) -> None:
        """The tenant of `next_for_place` has been charged for its turn."""
        self._for_place.served(account)

    @property
    def swaps_wanted(self) -> int:
        """Versions without a slot that a swap waits for."""
        return len(self._swaps_wanted)

    @property
    def replaced(self) -> set[VersionName]:
        """Versions that the waiting swaps replace."""
        asked = (t for version in self._swaps_wanted for t in self.swaps[version])
        return {ticket.replaces for ticket in asked if ticket.replaces is not None}

    @property
    def demand(self) -> int:
        """Versions that need a slot for a swap, or for a request that may run."""
        return self._wanted + sum(
            not self._any_may_run(self.lanes.get(version, ())) for version in self._swaps_wanted
        )

    def next_for_slot(self) -> VersionName:
        """Return the version to get the next slot; `demand` is not 0.

        Swaps go first, but not twice in a row while requests wait. A tenant pays for its turn. Of
        the tenants in one round, the one goes first whose request has waited longest.
        """
        account = self._for_slot.first()
        self._swap_was_last = account is None or (
            bool(self._swaps_wanted) and not self._swap_was_last
        )
        if account is None or self._swap_was_last:
            return next(iter(self._swaps_wanted))
        account.served += LOAD_TOKENS
        # Out of line before its tenant lines up for its next turn, which is another version's.
        version, _ = account.wanting.popitem(last=False)
        self._for_slot.served(account)
        return version

    def _lanes_of(self, version: VersionName | None) -> dict[Lane, None]:
        lanes = self.lanes.get(version)
        if lanes is None:
            lanes = self.lanes[version] = {}
            slot = self._slots.get(version) if version is not None else None
            if slot is not None:
                slot.lanes = lanes
        return lanes

    def _any_may_run(self, lanes: Collection[Lane]) -> bool:
        if not lanes or self._tenant_max_running is None:
            return bool(lanes)
        return any(not self.is_capped(lane.account) for lane in lanes)

    def _turn(self, lane: Lane) -> tuple[bool, tuple[int, int]]:
        slot = self._slots.get(lane.version) if lane.version is not None else None
        return slot is None or not slot.unserved, lane.key

    def _sort(self, lane: Lane) -> None:
        account, version = lane.account, lane.version
        if lane and self.is_open(version):
            account.open[version] = lane
        else:
            account.open.pop(version, None)
        if version is not None:
            if lane and self._slots.get(version) is None:
                account.wanting[version] = lane
            else:
                account.wanting.pop(version, None)
        self.refresh(account)


def _oldest_wanting(account: Account) -> int:
    """Return the number of the request that has waited longest for a slot."""
    lane = next(iter(account.wanting.values()), None)
    return lane.first.number if lane is not None else 0

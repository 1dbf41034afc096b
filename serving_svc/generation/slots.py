"""The engine's adapter slots: what each holds, and which one passes on next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Set
from enum import Enum
from typing import TYPE_CHECKING

from tailorbird.errors import FailedPrecondition
from tailorbird.names import VersionName

if TYPE_CHECKING:
    from serving_svc.generation.fairness import Lane


class SlotState(Enum):
    """How far a version that holds a slot has come."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    """Loaded, but closed for admission: it leaves when its admitted tickets have left."""
    UNLOADING = "unloading"


class Slot:
    """A slot taken by a version, from before its load until after its removal from the engine."""

    __slots__ = (
        "closed_at",
        "early",
        "holders",
        "lanes",
        "last_early",
        "opened_at",
        "retired",
        "served",
        "state",
        "swaps",
        "unserved",
        "used",
        "version",
    )

    def __init__(self, version: VersionName) -> None:
        self.version = version
        self.state = SlotState.LOADING
        self.holders = 0
        """Admitted tickets that have not left, swaps among them."""
        self.swaps = 0
        self.served = 0
        """Tokens served on it."""
        self.opened_at = 0
        """Tokens that the whole engine had served when the version was loaded."""
        self.closed_at = 0
        self.last_early = 0
        """Number of the last ticket that had come by then."""
        self.early = 0
        """How many that had come by then wait still; kept by the queue."""
        self.used = 0
        """Order of last use."""
        self.retired = False
        self.unserved = True
        """No request was admitted to it since it was loaded."""
        self.lanes: Collection[Lane] = ()
        """Who waits for the version; kept by the queue."""


class SlotTable:
    """All slots of one life of the engine. `total` is what the whole engine has served, in tokens.

    A version that others wait for has its turn in the slot: it serves who waited for it when it was
    loaded, for the batch takes them together, and who comes until it has served `least` tokens; but
    nobody any more after `most`. As much counts as served when the engine has served so much for
    each slot: one that is slow or idle does not keep its slot longer.
    """

    def __init__(self, count: int, least: int, most: int) -> None:
        self.count = count
        self._least = min(least, most)
        self._most = most
        self._slots: dict[VersionName, Slot] = {}
        self._by_state: dict[SlotState, dict[Slot, None]] = {state: {} for state in SlotState}
        self._pins: set[VersionName] = set()
        self._uses = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def __len__(self) -> int:
        """Return how many slots are taken."""
        return len(self._slots)

    @property
    def has_free(self) -> bool:
        """Whether a slot is taken by nobody."""
        return len(self._slots) < self.count

    @property
    def pins(self) -> Set[VersionName]:
        """Versions that are never made to leave."""
        return self._pins

    def get(self, version: VersionName) -> Slot | None:
        """Return the slot that `version` holds, in whatever state."""
        return self._slots.get(version)

    def take(self, version: VersionName) -> Slot:
        """Give a free slot to `version`, which is to be loaded."""
        slot = self._slots[version] = Slot(version)
        self._by_state[slot.state][slot] = None
        return slot

    def move(self, slot: Slot, state: SlotState) -> None:
        """The slot is in another state now."""
        del self._by_state[slot.state][slot]
        slot.state = state
        self._by_state[state][slot] = None

    def open(self, slot: Slot, total: int, last_ticket: int) -> None:
        """The slot's version was loaded, when `last_ticket` had come: its turn begins."""
        self.move(slot, SlotState.READY)
        slot.opened_at, slot.last_early = total, last_ticket
        slot.early = sum(map(len, slot.lanes))
        self.touch(slot)

    def release(self, slot: Slot) -> None:
        """The slot's version is not in the engine (any more)."""
        del self._slots[slot.version]
        del self._by_state[slot.state][slot]

    def touch(self, slot: Slot) -> None:
        """The slot is the one used last."""
        self._uses += 1
        slot.used = self._uses

    def pin(self, version: VersionName) -> None:
        """Keep `version` once it is loaded; FailedPrecondition if that would leave no slot."""
        if version in self._pins:
            return
        most = self.count - 1
        if len(self._pins) >= most:
            raise FailedPrecondition(
                f"{version} cannot be pinned: {len(self._pins)} versions are, and at most {most} "
                f"may be, of {self.count} adapter slots",
                reason="PINS_EXHAUSTED",
                version=version,
                limit=most,
            )
        self._pins.add(version)

    def unpin(self, version: VersionName) -> None:
        """Let `version` leave again."""
        self._pins.discard(version)

    def draining(self) -> list[Slot]:
        """Return the slots that are closed for admission but loaded."""
        return list(self._by_state[SlotState.DRAINING])

    def freeing(self, total: int) -> int:
        """Return how many slots are about to be free.

        One that drains for longer than the shortest turn lasts is not counted: a long answer in it
        does not keep those who wait from another slot.
        """
        draining = self._by_state[SlotState.DRAINING]
        return len(self._by_state[SlotState.UNLOADING]) + sum(
            total - slot.closed_at < self._least * self.count for slot in draining
        )

    def had_turn(self, slot: Slot, total: int) -> bool:
        """Whether the slot's version has had its turn."""
        served = max(slot.served, (total - slot.opened_at) // self.count)
        return served >= (self._most if slot.early else self._least)

    def idle(self, usable: Callable[[Slot], bool]) -> list[Slot]:
        """Return the loaded slots that nobody uses, in the order in which to empty them.

        Retired before routed, then the least recently used. `usable`: whether a request waits for
        the version that could be admitted as soon as there is a place for it.
        """
        idle = [slot for slot in self._by_state[SlotState.READY] if not slot.holders]
        found = [slot for slot in idle if slot.version not in self._pins and not usable(slot)]
        return sorted(found, key=lambda slot: (not slot.retired, slot.used))

    def spent(self, usable: Callable[[Slot], bool], total: int) -> list[Slot]:
        """Return the slots whose turn is over, in the order in which to close them.

        Retired before routed, rather not one that a swap holds, then the one loaded first.
        """
        ready = self._by_state[SlotState.READY]
        found = self._leaving([slot for slot in ready if self.had_turn(slot, total)], usable)
        return sorted(found, key=lambda slot: (not slot.retired, slot.swaps > 0, slot.opened_at))

    def giving_way(self, replaced: Set[VersionName], usable: Callable[[Slot], bool]) -> list[Slot]:
        """Return the slots that may be closed for a swap, which waits for no turn, in order.

        First what a swap replaces; the others as for a request, but the one first whose last
        admission is the longest ago.
        """
        return sorted(
            self._leaving(self._by_state[SlotState.READY], usable),
            key=lambda slot: (
                slot.version not in replaced,
                not slot.retired,
                slot.swaps > 0,
                slot.used,
            ),
        )

    def _leaving(self, slots: Iterable[Slot], usable: Callable[[Slot], bool]) -> list[Slot]:
        # One that was loaded for requests lets one in before it goes: no load is in vain.
        return [
            slot
            for slot in slots
            if not (slot.unserved and usable(slot)) and slot.version not in self._pins
        ]

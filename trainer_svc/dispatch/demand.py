"""Which base the next worker is started with, and which workers end for it.

The queue's head decides: the oldest job that no worker takes, nor one that gets ready, is the one
that room is made for, and younger ones get none before it has its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trainer_svc.dispatch.place import Place


@dataclass(frozen=True)
class Stock:
    """The workers that there are, and what is left for more. Bases are named by their digests."""

    places: Sequence[Place] = ()
    """The workers that are ready."""
    starting: Collection[str] = ()
    """The bases of workers that get ready."""
    expected: Collection[str] = ()
    """Those of them that do not get ready after a failure: each is as good as an empty worker."""
    ending: Sequence[str] = ()
    """The bases of workers that are not gone yet, and take no more jobs."""
    slots: int = 0
    """How many more workers may be started."""
    memory: float = math.inf
    """Bytes of weights that they may hold."""
    resting: Collection[str] = ()
    """Bases that no worker is started with for a while, for the last has failed."""
    broken: Collection[str] = ()
    """Bases that were given up, and no worker has got ready with since."""


class Demand:
    """What one look at the queue asks for. `sizes` are the bytes of each base's weights."""

    def __init__(
        self, stock: Stock, sizes: Mapping[str, int], leaving_before: Collection[Place]
    ) -> None:
        self._stock = stock
        self._sizes = sizes
        self._before = leaving_before
        self.settled = False
        """Whether a job was found that room is made for, or waits for it."""
        self.deferred = False
        """Whether a job waits for a base that rests."""
        self.base = ""
        """What the next worker is to hold; "" where none is to be started now."""
        self.leaving: tuple[Place, ...] = ()
        """The workers that end when all of them are idle."""

    def need(self, base: str, open_places: Sequence[Place]) -> Sequence[Place]:
        """Ask for a worker with `base`, and return those of the open places that close for that.

        Where workers hold the base, but none has room, only workers that nobody asks for end; where
        none holds it, others let go of it in turn: they take no more jobs, and end when they are
        idle. One that is kept by a job that is alone is as good as none to another job.
        For a base that is broken nobody but who is idle makes room, nor does another base wait.
        """
        stock = self._stock
        if self.settled or base in stock.starting:
            return ()
        if base in stock.resting:
            self.deferred = True
            return ()
        if stock.slots and self._sizes[base] <= stock.memory:
            self.settled, self.base = True, base
            return ()
        broken = base in stock.broken
        spare = broken or any(each.base == base and not each.alone for each in stock.places)
        others = [place for place in open_places if place.base != base and not place.fresh]
        self.leaving = self._enough(base, [each for each in others if not (spare and each.count)])
        if broken and not self.leaving:
            self.deferred = True
        else:
            self.settled = True
        return () if spare else self.leaving

    @property
    def ended(self) -> tuple[Place, ...]:
        """The workers that end now."""
        return () if any(place.count for place in self.leaving) else self.leaving

    def _enough(self, base: str, others: list[Place]) -> tuple[Place, ...]:
        """Choose whose end makes room: of idle ones the longest idle, of others the emptiest."""
        stock, sizes = self._stock, self._sizes
        slots = 1 - stock.slots - len(stock.ending)
        memory = sizes[base] - stock.memory - sum(sizes[each] for each in stock.ending)
        chosen: list[Place] = []
        for place in sorted(others, key=self._cost):
            if slots > 0 or memory > 0:
                chosen.append(place)
                slots, memory = slots - 1, memory - sizes[place.base]
        if slots > 0 or memory > 0:
            return ()
        for place in list(chosen):
            # A small one that came first is not ended for nothing.
            if slots < 0 and memory + sizes[place.base] <= 0:
                chosen.remove(place)
                slots, memory = slots + 1, memory + sizes[place.base]
        return tuple(chosen)

    def _cost(self, place: Place) -> tuple[object, ...]:
        only = sum(each.base == place.base for each in self._stock.places) == 1
        return place.count > 0, place not in self._before, place.count, only, place.idle_since

"""How large a run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of the cells; the defaults are those of the issue's figures."""

    pairs: int = 5
    """Of the cells with `streams` streams."""
    slow_pairs: int = 3
    """Of oversubscription, flood and cold adapters."""
    streams: int = 32
    tokens: int = 32
    base_rounds: int = 8
    rounds: int = 4
    capped_rounds: int = 4
    """At a cap of 64, where the peer takes three to five seconds a round."""
    adapters: int = 8
    many_adapters: int = 64
    many_slots: int = 16
    many_streams: int = 128
    many_rounds: int = 2
    flood_seconds: float = 20.0
    cold: int = 8
    """Adapters never seen before, one after the other."""
    cold_seconds: float = 8.0
    """Time of the streams beside which cold adapters load."""

    @property
    def published(self) -> int:
        """Adapters that are there from the start."""
        return max(self.adapters, self.many_adapters)

    @property
    def made(self) -> int:
        """Adapters of a run, those that are published while it goes on included."""
        fresh = self.cold + self.slow_pairs * (self.cold + self.adapters)
        return self.published + fresh


QUICK = Sizes(
    pairs=1,
    slow_pairs=1,
    streams=4,
    tokens=8,
    base_rounds=1,
    rounds=1,
    capped_rounds=1,
    adapters=2,
    many_adapters=6,
    many_slots=2,
    many_streams=8,
    many_rounds=1,
    flood_seconds=3.0,
    cold=2,
    cold_seconds=2.0,
)
"""A smoke test: every cell runs, and no figure means anything."""

"""How large a run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of a run on the queue alone; the defaults are those of the issue's figures."""

    queued: int = 10_000
    ended: int = 20_000
    """Jobs that have ended, beside them."""
    tenants: int = 500
    claims: int = 500
    """By each claimer."""
    held: int = 64
    """Leases that each claimer has at a time: of eight workers with eight jobs each."""
    pages: int = 500
    """Tenants whose jobs are listed."""
    page: int = 50
    """Jobs in a page: the service's default."""
    creates: int = 300
    watched: int = 50
    """Jobs that are watched at a time."""
    events: int = 600
    """Recorded over these, one after the other."""
    event_pause: float = 0.02
    """Seconds between two of them."""


QUICK = Sizes(
    queued=400,
    ended=400,
    tenants=40,
    claims=30,
    held=8,
    pages=30,
    page=8,
    creates=20,
    watched=5,
    events=25,
)
"""A smoke test: no time means anything."""


@dataclass(frozen=True, slots=True)
class SoakSizes:
    """The numbers of a soak beside its jobs."""

    tenants: int = 50
    trainers: int = 2
    lease_seconds: int = 5
    kill_seconds: float = 20.0
    """Between two kills, on average."""
    limit_seconds: float = 1500.0
    """After which jobs that have not ended are lost."""
    seed: int = 0
    judges_growth: bool = True


QUICK_SOAK = SoakSizes(tenants=4, kill_seconds=4.0, limit_seconds=600.0, judges_growth=False)
"""A smoke test: too short to tell whether anything grows."""

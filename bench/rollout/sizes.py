"""How large a run is."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of a run; the defaults are those of the issue's figures."""

    rounds: int = 2
    """Of restarts, each of every replica."""
    least_requests: int = 500
    requests_per_second: float = 5.0
    adapters: int = 4
    long_tokens: int = 200
    """Length of the streams that are under way when a replica is told to stop."""
    settled_seconds: float = 6.0
    """Of load between two restarts, with both replicas in the proxy's list."""
    probe_period: float = 1.0
    """Seconds between two looks at a replica's readiness: a kubelet's least."""
    drain_delay: float = 5.0
    """Seconds that a replica goes on taking calls after SIGTERM: the chart's."""
    trainer_rounds: tuple[tuple[signal.Signals, ...], ...] = (
        (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM),
        (signal.SIGKILL, signal.SIGKILL),
    )
    """One job each: what the trainer gets while it trains, one after the other."""

    @property
    def restarts(self) -> int:
        """Restarts of a serving replica."""
        return self.rounds * REPLICAS


REPLICAS = 2

QUICK = Sizes(
    rounds=1,
    least_requests=60,
    requests_per_second=4.0,
    adapters=2,
    settled_seconds=1.0,
    probe_period=0.5,
    drain_delay=2.0,
    trainer_rounds=((signal.SIGTERM, signal.SIGKILL),),
)
"""A smoke test: everything happens once, and no time means anything."""

"""How much of the queue a tenant may take. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tailorbird.errors import InvalidArgument, ResourceExhausted
from tailorbird.import_uri import EVERYONE

LOWEST_PRIORITY, HIGHEST_PRIORITY = -100, 100
_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """By tenant; "*" stands for those that are not named. Without either there is no limit.

    But for `priority`: then it is 0, so that nobody comes before others by asking for it.
    """

    queued: Mapping[str, int] = field(default_factory=dict)
    running: Mapping[str, int] = field(default_factory=dict)
    priority: Mapping[str, int] = field(default_factory=dict)

    def most_queued(self, tenant: str) -> float:
        """Return how many jobs of a tenant may wait."""
        return _of(self.queued, tenant, math.inf)

    def most_running(self, tenant: str) -> float:
        """Return how many jobs of a tenant may be at work; more of them wait."""
        return _of(self.running, tenant, math.inf)

    def check_queued(self, tenant: str, queued: int) -> None:
        """Raise ResourceExhausted (TOO_MANY_QUEUED_JOBS) if these are more than may wait."""
        most = self.most_queued(tenant)
        if queued > most:
            raise ResourceExhausted(
                f"{tenant} has {queued - 1} queued jobs; at most {most:g} may wait",
                reason="TOO_MANY_QUEUED_JOBS",
                retry_after=_RETRY_SECONDS,
                quota="queued_jobs",
                subject=f"tenants/{tenant}",
                limit=f"{most:g}",
            )

    def check_priority(self, tenant: str, priority: int) -> None:
        """Raise InvalidArgument (PRIORITY_TOO_HIGH) if the tenant may not ask for so much."""
        most = _of(self.priority, tenant, 0)
        if priority > most:
            raise InvalidArgument(
                "job.spec.priority",
                f"{priority} is more than {most:g}, the highest that {tenant} may ask for",
                reason="PRIORITY_TOO_HIGH",
            )


def _of(limits: Mapping[str, int], tenant: str, without: float) -> float:
    return limits.get(tenant, limits.get(EVERYONE, without))

"""How long the queue may grow, and how long a wait in it will take."""

from __future__ import annotations

from serving_svc.generation.fairness import Account, Crowd
from serving_svc.generation.limits import SchedulerLimits, limit_reached
from serving_svc.generation.ticket import Ticket
from tailorbird.errors import ResourceExhausted

PACE_SAMPLES = 16
SHORTEST_RETRY, LONGEST_RETRY = 0.1, 60.0


class Pace:
    """How fast places become free while tickets wait for them; unknown until it was seen."""

    def __init__(self) -> None:
        self._gap = 0.0
        self._samples = 0
        self._last: float | None = None

    def left(self, now: float, queued: bool) -> None:
        """A place became free at `now`; `queued`: the places were full, and tickets waited."""
        if not queued:
            self._last, self._samples = None, 0
            return
        if self._last is not None:
            self._samples += 1
            weight = 1 / min(self._samples, PACE_SAMPLES)
            self._gap += (now - self._last - self._gap) * weight
        self._last = now

    def seconds(self, ahead: int) -> float | None:
        """Return how long `ahead` tickets will take to be admitted; None if that is not known."""
        return ahead * self._gap if self._samples >= PACE_SAMPLES else None

    def retry_after(self, ahead: int) -> float:
        """Return seconds after which another try makes sense."""
        seconds = self.seconds(ahead)
        return 1.0 if seconds is None else min(max(seconds, SHORTEST_RETRY), LONGEST_RETRY)


class Bounds:
    """Refuses what may not wait, or would wait in vain."""

    def __init__(self, limits: SchedulerLimits, crowd: Crowd) -> None:
        self._limits = limits
        self._crowd = crowd
        self.pace = Pace()

    def check(self, ticket: Ticket, waiting: int) -> None:
        """Raise ResourceExhausted if `ticket`, with `waiting` of its tenant's queued, may not wait.

        TENANT_QUEUE_FULL, DEADLINE_TOO_SHORT, or QUEUE_FULL if the queue is full and its tenant
        would have the largest share of it. The deadline is held against the time in which the
        tickets that go first are admitted at the measured pace.
        """
        ahead = self._crowd.ahead(waiting)
        most = self._limits.tenant_max_waiting
        if most is not None and waiting >= most:
            raise limit_reached(
                f"{waiting} requests of tenants/{ticket.tenant} wait already; at most {most} may",
                reason="TENANT_QUEUE_FULL",
                retry_after=self.pace.retry_after(ahead),
                quota="tenant_max_waiting",
                tenant=ticket.tenant,
                limit=most,
            )
        self._check_deadline(ticket, ahead)
        if self.is_full and len(self._crowd.largest().waiting) <= waiting + 1:
            raise self.queue_full(ticket.tenant, waiting)

    @property
    def is_full(self) -> bool:
        """Whether the queue holds as many tickets as it may."""
        return self._crowd.total >= self._limits.max_waiting

    def queue_full(self, tenant: str, waiting: int) -> ResourceExhausted:
        """Return the error for a ticket of the tenant that fills the queue."""
        most = self._limits.max_waiting
        return limit_reached(
            f"{most} requests wait, as many as may, and no tenant has more of them than "
            f"tenants/{tenant}",
            reason="QUEUE_FULL",
            retry_after=self.pace.retry_after(self._crowd.ahead(waiting)),
            quota="max_waiting",
            tenant=tenant,
            limit=most,
        )

    def largest(self) -> Account:
        """Return the tenant with the most waiting tickets."""
        return self._crowd.largest()

    def _check_deadline(self, ticket: Ticket, ahead: int) -> None:
        seconds = self.pace.seconds(ahead)
        if ticket.deadline is None or seconds is None:
            return
        left = ticket.deadline - ticket.since
        # Half of it: an answer that might still come in time is not refused on an estimate.
        if seconds / 2 > left:
            raise ResourceExhausted(
                f"{ahead} requests go first, which takes about {seconds:.1f} s, and the deadline "
                f"leaves {left:.1f} s",
                reason="DEADLINE_TOO_SHORT",
                retry_after=seconds - left,
                estimated_wait_seconds=f"{seconds:.1f}",
            )

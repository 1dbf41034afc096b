"""What one tenant may ask for, and what all may together."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice

from tailorbird.errors import ResourceExhausted

RATE_BURST_SECONDS = 2.0
TOKENS_BURST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Limits of this replica; None: no limit. Every number is at least 1.

    `max_running` is how many requests the engine takes into one batch: more would queue inside it,
    unfairly. `quantum_tokens`: what a tenant is served before it is the next one's turn, and an
    adapter in its slot, beside those who waited for it, while another waits for one.
    `slot_quantum_tokens`: what an adapter is served in its slot at most then; a smaller one
    shortens the wait for one behind long queues, a larger one fills the batch.
    """

    max_running: int = 256
    max_waiting: int = 1024
    tenant_max_running: int | None = None
    tenant_max_waiting: int | None = None
    requests_per_second: float | None = None
    tokens_per_minute: int | None = None
    quantum_tokens: int = 256
    slot_quantum_tokens: int = 1024


def limit_reached(
    message: str, *, reason: str, retry_after: float, quota: str, tenant: str, limit: float
) -> ResourceExhausted:
    """Return the error of a limit: it names the limit (`quota`) and whom it holds (`subject`)."""
    return ResourceExhausted(
        message,
        reason=reason,
        retry_after=retry_after,
        quota=quota,
        subject=f"tenants/{tenant}",
        limit=limit,
    )


class Bucket:
    """A token bucket: `rate` a second, filled for at most `burst` seconds, at least one token."""

    __slots__ = ("_capacity", "_filled_at", "_rate", "level")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate * burst)
        self._filled_at = now
        self.level = self._capacity
        """What may be taken; negative after more was taken than there was."""

    def wait(self, now: float) -> float:
        """Return in how many seconds there will be one token; 0 if there is."""
        self._fill(now)
        return max(0.0, (1.0 - self.level) / self._rate)

    def is_full(self, now: float) -> bool:
        """Whether it is as good as new."""
        self._fill(now)
        return self.level >= self._capacity

    def _fill(self, now: float) -> None:
        grown = self.level + (now - self._filled_at) * self._rate
        self.level = min(self._capacity, grown)
        self._filled_at = now


class Quota:
    """One tenant's buckets; `held` by so many tickets that may yet charge it."""

    __slots__ = ("held", "requests", "tokens")

    def __init__(self, limits: SchedulerLimits, now: float) -> None:
        requests, tokens = limits.requests_per_second, limits.tokens_per_minute
        self.held = 0
        self.requests = Bucket(requests, RATE_BURST_SECONDS, now) if requests else None
        self.tokens = Bucket(tokens / 60, TOKENS_BURST_SECONDS, now) if tokens else None

    def is_new(self, now: float) -> bool:
        """Whether nothing is lost by forgetting it."""
        buckets = (self.requests, self.tokens)
        return not self.held and all(bucket is None or bucket.is_full(now) for bucket in buckets)


class Quotas:
    """The buckets of the tenants that have asked for something lately."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self._quotas: OrderedDict[str, Quota] = OrderedDict()

    def __len__(self) -> int:
        return len(self._quotas)

    def take(self, tenant: str, now: float) -> Quota | None:
        """Take one request from the tenant's; None if nothing is limited.

        Raises ResourceExhausted: RATE_LIMITED, with the exact time to wait.
        """
        limits = self._limits
        if limits.requests_per_second is None and limits.tokens_per_minute is None:
            return None
        self._forget(now)
        quota = self._quotas.get(tenant)
        if quota is None:
            quota = self._quotas[tenant] = Quota(limits, now)
        self._check(quota.tokens, "tokens_per_minute", limits.tokens_per_minute, tenant, now)
        self._check(quota.requests, "requests_per_second", limits.requests_per_second, tenant, now)
        if quota.requests is not None:
            quota.requests.level -= 1
        return quota

    def _check(
        self, bucket: Bucket | None, name: str, limit: float | None, tenant: str, now: float
    ) -> None:
        if bucket is None or limit is None:
            return
        wait = bucket.wait(now)
        if wait > 0:
            raise limit_reached(
                f"tenants/{tenant} has used up its {name} of {limit:g}; "
                f"the next request is taken in {wait:.2f} s",
                reason="RATE_LIMITED",
                retry_after=wait,
                quota=name,
                tenant=tenant,
                limit=limit,
            )

    def _forget(self, now: float) -> None:
        # Two looks for one newcomer: those that are done with go faster than others come.
        for tenant in list(islice(self._quotas, 2)):
            if self._quotas[tenant].is_new(now):
                del self._quotas[tenant]
            else:
                self._quotas.move_to_end(tenant)

"""Which versions this replica does not serve, and why."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from serving_svc.metrics import ServingMetrics
from tailorbird.errors import AdapterRefused
from tailorbird.names import AdapterName, TenantName, VersionName

_log = structlog.get_logger(__name__)

_FIRST_BACKOFF = timedelta(seconds=1)
_LAST_BACKOFF = timedelta(minutes=5)
_MAX_MESSAGE = 500
_MAX_REFUSALS = 10_000

ENGINE_DIED = "ENGINE_DIED"
"""Reason of a version that was being loaded when the engine died."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a version is refused; `retry_at`: when a retryable refusal lapses, None for ever."""

    reason: str
    message: str
    retryable: bool
    retry_at: datetime | None


@dataclass(slots=True)
class _Record:
    refusal: Refusal
    tries: int


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Refusals:
    """Refusals by version, of which the newest 10,000 are remembered.

    A permanent refusal stands as long as the process: a version's files never change, so asking
    again, be it by Promote or WarmVersion, changes nothing. What is wrong with this replica's copy
    alone is no refusal: the disk fetches it again. A retryable one lapses after 1 s, and after
    twice as long each time it comes back, up to 5 minutes; it is forgotten once the version loads.
    What was loading when the engine died may be the cause, and ends everybody's requests: the
    second time it is left alone for the 5 minutes.
    """

    def __init__(self, metrics: ServingMetrics, clock: Callable[[], datetime] = _utc_now) -> None:
        self._metrics = metrics
        self._clock = clock
        self._adapters: dict[AdapterName, dict[VersionName, _Record]] = {}
        # Oldest first; permanent ones go first, since finding them again costs one fetch.
        self._permanent: OrderedDict[VersionName, None] = OrderedDict()
        self._retryable: OrderedDict[VersionName, None] = OrderedDict()

    def check(self, version: VersionName) -> None:
        """Raise AdapterRefused while `version` is refused."""
        refusal = self.get(version)
        if refusal is not None:
            raise AdapterRefused(
                f"{version} is refused: {refusal.message}",
                reason=refusal.reason,
                retryable=refusal.retryable,
                version=version,
            )

    def record(self, version: VersionName, refusal: AdapterRefused) -> None:
        """Refuse `version` from now on; for good, or for longer than the last time."""
        records = self._adapters.setdefault(version.adapter_name, {})
        tries = records[version].tries + 1 if version in records else 1
        wait = _LAST_BACKOFF if refusal.reason == ENGINE_DIED and tries > 1 else _backoff(tries)
        retry_at = self._clock() + wait if refusal.retryable else None
        self._forget(version)
        self._adapters.setdefault(version.adapter_name, {})[version] = _Record(
            Refusal(refusal.reason, refusal.message[:_MAX_MESSAGE], refusal.retryable, retry_at),
            tries,
        )
        (self._retryable if refusal.retryable else self._permanent)[version] = None
        self._metrics.loads.labels("refused").inc()
        self._metrics.refusals.labels(refusal.reason).inc()
        _log.warning(
            "adapter refused",
            version=str(version),
            reason=refusal.reason,
            message=refusal.message[:_MAX_MESSAGE],
            retry_at=None if retry_at is None else retry_at.isoformat(),
        )
        while len(self._permanent) + len(self._retryable) > _MAX_REFUSALS:
            self._forget(next(iter(self._permanent or self._retryable)))

    def clear(self, version: VersionName) -> None:
        """Forget a refusal, and how often it came."""
        self._forget(version)

    def get(self, version: VersionName) -> Refusal | None:
        """Return why `version` is refused now, or None if it may be tried."""
        record = self._adapters.get(version.adapter_name, {}).get(version)
        return record.refusal if record and self._stands(record.refusal) else None

    def of(self, adapter: AdapterName) -> dict[VersionName, Refusal]:
        """Return the versions of `adapter` that are refused now."""
        return {
            version: record.refusal
            for version, record in self._adapters.get(adapter, {}).items()
            if self._stands(record.refusal)
        }

    def of_tenant(self, tenant: TenantName) -> dict[VersionName, Refusal]:
        """Return the tenant's versions that are refused now."""
        return {
            version: refusal
            for adapter in self._adapters
            if adapter.tenant == tenant.tenant
            for version, refusal in self.of(adapter).items()
        }

    def _stands(self, refusal: Refusal) -> bool:
        if refusal.retry_at is None:
            return True
        # A clock that is set back makes no refusal longer than the longest.
        return timedelta(0) < refusal.retry_at - self._clock() <= _LAST_BACKOFF

    def _forget(self, version: VersionName) -> None:
        self._permanent.pop(version, None)
        self._retryable.pop(version, None)
        records = self._adapters.get(version.adapter_name, {})
        records.pop(version, None)
        if not records:
            self._adapters.pop(version.adapter_name, None)


def _backoff(tries: int) -> timedelta:
    # 2**9 seconds are past the last step: no larger power is needed.
    doublings = min(tries - 1, 9)
    return min(_FIRST_BACKOFF * (1 << doublings), _LAST_BACKOFF)

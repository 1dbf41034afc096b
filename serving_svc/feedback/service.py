"""Recording feedback: allowed, known, redacted, and then stored once."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from prometheus_client import Counter

from serving_svc.feedback.quota import DailyQuota
from tailorbird.errors import (
    DataCorrupt,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TailorbirdError,
)
from tailorbird.feedback import (
    MAX_FEEDBACK_BYTES,
    Answer,
    FeedbackRecord,
    FeedbackStore,
    Tool,
    Turn,
    checked_same,
    feedback_day,
)
from tailorbird.names import AdapterName, FeedbackName, TenantName, VersionName

_NOW, _ONE_DAY = timedelta(0), timedelta(days=1)
# A replica whose clock is so much ahead may have recorded what is asked for again here.
_CLOCK_SKEW = timedelta(minutes=10)


class Versions(Protocol):
    """Which versions there are, and which routes."""

    async def check_present(self, version: VersionName) -> None:
        """Raise NotFound unless the version is published, and not deleted."""

    async def route(self, adapter: AdapterName, generation: int) -> object | None:
        """Return one generation of the route log, or None; DataCorrupt if it cannot be read."""


class Redacting(Protocol):
    """Rids records of personal data."""

    async def redacted(self, record: FeedbackRecord, tenant: str) -> FeedbackRecord:
        """Return the record as it may be stored."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """An answer to keep, as it was given; see RecordFeedbackRequest."""

    version: VersionName
    answer: Answer
    subject: str
    route_generation: int = 0
    messages: tuple[Turn, ...] = ()
    tools: tuple[Tool, ...] = ()
    prompt: str = ""
    correction: Answer | None = None
    rating: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    request_id: str = ""


class FeedbackRecorder:
    """Records the feedback of `tenants`, by id; None: of every tenant.

    `redacting` is None where no tenant may record.
    """

    def __init__(
        self,
        store: FeedbackStore,
        versions: Versions,
        redacting: Redacting | None,
        quota: DailyQuota,
        results: Counter,
        *,
        tenants: Collection[str] | None,
        max_record_bytes: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._versions = versions
        self._redacting = redacting
        self._quota = quota
        self._results = results
        self._tenants = tenants
        self._max_record_bytes = max_record_bytes
        self._clock = clock

    async def record(self, feedback: Feedback) -> FeedbackRecord:
        """Store `feedback` without its personal data, and return what is stored.

        Raises FailedPrecondition (FEEDBACK_OFF), NotFound for a version that is not there,
        InvalidArgument (FEEDBACK_TOO_LARGE; UNKNOWN_ROUTE_GENERATION), AlreadyExists
        (FEEDBACK_EXISTS) for a request id of other content, and what quota, redactor and store do;
        then nothing is stored, unless the store failed: the same request id again tells.
        """
        with self._counted():
            redacting = self._redacting_of(feedback.version.tenant)
            record = _checked_size(self._new(feedback), self._max_record_bytes)
            await self._versions.check_present(feedback.version)
            await self._check_generation(feedback)
            stored = await self._stored(feedback, record.create_time)
            if stored is not None:
                again = record.model_copy(update={"name": stored.name})
                return checked_same(
                    stored, await redacting.redacted(again, feedback.version.tenant)
                )
            tenant = TenantName(feedback.version.tenant)
            async with self._quota.place(tenant, record.create_time):
                redacted = await redacting.redacted(record, tenant.tenant)
                return await self._store.create(_checked_size(redacted, MAX_FEEDBACK_BYTES))

    async def _check_generation(self, feedback: Feedback) -> None:
        generation, adapter = feedback.route_generation, feedback.version.adapter_name
        if not generation:
            return
        # One that cannot be read is there.
        with suppress(DataCorrupt):
            if await self._versions.route(adapter, generation) is None:
                raise InvalidArgument(
                    "route_generation",
                    f"{adapter} has no route of generation {generation}: give the answer's, or 0 "
                    "where the version was pinned",
                    reason="UNKNOWN_ROUTE_GENERATION",
                )

    def _redacting_of(self, tenant: str) -> Redacting:
        if self._redacting is None or (self._tenants is not None and tenant not in self._tenants):
            raise FailedPrecondition(
                f"feedback of tenants/{tenant} is not kept: the operator allows it by"
                " TAILORBIRD_FEEDBACK_TENANTS",
                reason="FEEDBACK_OFF",
                setting="TAILORBIRD_FEEDBACK_TENANTS",
            )
        return self._redacting

    def _new(self, feedback: Feedback) -> FeedbackRecord:
        now = self._clock()
        adapter = feedback.version.adapter_name
        id_ = _id(adapter, feedback.request_id) if feedback.request_id else secrets.token_hex(16)
        return FeedbackRecord(
            name=str(_name(adapter, now, id_)),
            version=str(feedback.version),
            route_generation=feedback.route_generation,
            create_time=now,
            subject=feedback.subject,
            messages=feedback.messages,
            tools=feedback.tools,
            prompt=feedback.prompt,
            answer=feedback.answer,
            correction=feedback.correction,
            rating=feedback.rating,
            labels=feedback.labels,
        )

    async def _stored(self, feedback: Feedback, now: datetime) -> FeedbackRecord | None:
        """Return the record of this request id, if there is one of about a day."""
        if not feedback.request_id:
            return None
        adapter = feedback.version.adapter_name
        id_ = _id(adapter, feedback.request_id)
        names = {_name(adapter, now + shift, id_) for shift in (-_ONE_DAY, _NOW, _CLOCK_SKEW)}
        for found in await asyncio.gather(*map(self._find, names)):
            if found is not None:
                return found
        return None

    async def _find(self, name: FeedbackName) -> FeedbackRecord | None:
        try:
            return await self._store.get(name)
        except NotFound:
            return None

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except TailorbirdError as error:
            self._results.labels(error.reason).inc()
            raise
        except asyncio.CancelledError:
            self._results.labels("cancelled").inc()
            raise
        self._results.labels("ok").inc()


def _checked_size(record: FeedbackRecord, limit: int) -> FeedbackRecord:
    size = len(record.model_dump_json().encode())
    if size > limit:
        raise too_large(size, limit)
    return record


def too_large(size: int, limit: int) -> InvalidArgument:
    """Return the error for a record of `size` bytes, or of more."""
    return InvalidArgument(
        "request",
        f"the record has {size} bytes or more; at most {limit} are accepted",
        reason="FEEDBACK_TOO_LARGE",
        limit=limit,
    )


def _id(adapter: AdapterName, request_id: str) -> str:
    return hashlib.sha256(f"{adapter}\0{request_id}".encode()).hexdigest()[:32]


def _name(adapter: AdapterName, now: datetime, id_: str) -> FeedbackName:
    return FeedbackName(adapter.tenant, adapter.adapter, feedback_day(now), id_)

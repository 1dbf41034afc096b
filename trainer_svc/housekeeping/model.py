"""What housekeeping removes, by what rules, and what it says of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from tailorbird.object_store import ObjectInfo
from trainer_svc.record import Record

MOST_FAILURES = 20
"""Told in a report; the others are counted."""


class Kind(StrEnum):
    """What was removed."""

    CHECKPOINTS = "checkpoints"
    UNCOMMITTED_VERSIONS = "uncommitted_versions"
    DELETED_VERSIONS = "deleted_versions"
    ABANDONED_UPLOADS = "abandoned_uploads"
    PARTIAL_FILES = "partial_files"
    HOT_LISTS = "hot_lists"
    LOCAL_CACHES = "local_caches"
    ENDED_JOBS = "ended_jobs"
    ADAPTERS = "adapters"
    DATASETS = "datasets"
    FEEDBACK = "feedback"
    OTHER = "other"


OF_A_ROUND = (
    Kind.CHECKPOINTS,
    Kind.UNCOMMITTED_VERSIONS,
    Kind.DELETED_VERSIONS,
    Kind.ABANDONED_UPLOADS,
    Kind.PARTIAL_FILES,
    Kind.HOT_LISTS,
    Kind.LOCAL_CACHES,
    Kind.ENDED_JOBS,
)
"""What a round of collection removes; the others go when a tenant is erased."""


class Count(Record):
    """How much: of checkpoints, versions and so on, of their objects or rows, and in bytes."""

    things: int = 0
    objects: int = 0
    bytes: int = 0

    def plus(self, objects: int, bytes_: int, things: int = 1) -> Count:
        """Return the sum with some more things."""
        return Count(
            things=self.things + things,
            objects=self.objects + objects,
            bytes=self.bytes + bytes_,
        )


class Collected(Record):
    """What a round removed; with `dry_run`, what it would have."""

    dry_run: bool
    begin_time: datetime
    end_time: datetime
    removed: dict[Kind, Count] = Field(default_factory=dict)
    failures: tuple[str, ...] = ()
    """Where something could not be looked at or removed, and why; the first 20."""
    failure_count: int = 0


@dataclass(frozen=True)
class Rules:
    """How old what is garbage must be before it goes.

    `grace`: since it was last written. `deleted_versions`: since the version was deleted.
    `ended_jobs`: since the job ended, None for ever. `hot_lists`, `local_caches`: since they were
    last written or used.
    """

    grace: timedelta
    deleted_versions: timedelta
    ended_jobs: timedelta | None = None
    hot_lists: timedelta = timedelta(days=30)
    local_caches: timedelta = timedelta(days=30)


@dataclass(frozen=True)
class Garbage:
    """Something that goes as a whole: `objects` in the order in which they are to be deleted."""

    kind: Kind
    name: str
    objects: tuple[ObjectInfo, ...]


@dataclass
class Tally:
    """Sums up a round while it goes on."""

    removed: dict[Kind, Count] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    failure_count: int = 0

    def add(self, kind: Kind, objects: int, bytes_: int, things: int = 1) -> None:
        """Count what is gone."""
        before = self.removed.get(kind, Count())
        self.removed[kind] = before.plus(objects, bytes_, things)

    def failed(self, where: str, why: str) -> None:
        """Note what could not be looked at or removed."""
        self.failure_count += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(f"{where}: {why}")


def newest(objects: list[ObjectInfo]) -> datetime:
    """Return when the newest of some objects, at least one, was written."""
    return max(info.modified for info in objects)

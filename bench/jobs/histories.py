"""What became of a soak's jobs: their rows, their events, and what the store has of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.jobs.postgresql import connect
from trainer_svc.jobs.model import TERMINAL

_HISTORIES = """
    SELECT tenant, job, adapter, state, error->>'reason' AS reason, last_sequence,
        array_agg(sequence ORDER BY sequence) AS sequences,
        count(*) FILTER (WHERE payload->>'kind' = 'state_changed'
            AND payload->>'state' = ANY($1::text[])) AS ends,
        count(*) FILTER (WHERE payload->>'kind' = 'published') AS published,
        count(*) FILTER (WHERE payload->>'kind' = 'resumed') AS resumed
    FROM jobs JOIN events USING (tenant, job) GROUP BY tenant, job
"""
_ENDED = "SELECT count(*) FILTER (WHERE state = ANY($1::text[])), count(*) FROM jobs"
_STATES = sorted(TERMINAL)


@dataclass(frozen=True, slots=True)
class History:
    """One job in the end."""

    job: str
    state: str
    reason: str
    """Why it failed."""
    last_sequence: int
    sequences: Sequence[int]
    ends: int
    """Events that end the job."""
    published: int
    """Events that tell of its version."""
    resumed: int
    versions: int
    """In the object store, of the job's own adapter."""
    routes: int
    """Generations of the adapter's route."""

    @property
    def has_ended(self) -> bool:
        """Whether it is in a state that is the last."""
        return self.state in TERMINAL


async def count(url: str) -> tuple[int, int]:
    """Return how many jobs have ended, and how many there are."""
    connection = await connect(url)
    try:
        ended, made = await connection.fetchrow(_ENDED, _STATES)
        return ended, made
    finally:
        await connection.close()


async def read(url: str, store: Path) -> list[History]:
    """Return all jobs'."""
    connection = await connect(url)
    try:
        rows = await connection.fetch(_HISTORIES, _STATES)
    finally:
        await connection.close()
    return [_history(row, store) for row in rows]


def _history(row: Mapping[str, Any], store: Path) -> History:
    return History(
        job=f"tenants/{row['tenant']}/jobs/{row['job']}",
        state=row["state"],
        reason=row["reason"] or "",
        last_sequence=row["last_sequence"],
        sequences=row["sequences"],
        ends=row["ends"],
        published=row["published"],
        resumed=row["resumed"],
        versions=len(list(store.glob(f"{row['adapter']}/versions/*/manifest.json"))),
        routes=len(list(store.glob(f"{row['adapter']}/routes/*"))),
    )


def doubled(history: History) -> Iterator[str]:
    """Yield what a job has twice, or lacks, of what every job has once."""
    if list(history.sequences) != list(range(1, history.last_sequence + 1)):
        yield f"{history.job}: its sequences are not 1 to {history.last_sequence}"
    succeeded = int(history.state == "SUCCEEDED")
    for what, found, expected in (
        ("events that end it", history.ends, int(history.has_ended)),
        ("published events", history.published, succeeded),
        ("versions", history.versions, succeeded),
        ("routes", history.routes, succeeded),
    ):
        if found != expected:
            yield f"{history.job} is {history.state}: {found} {what}, not {expected}"

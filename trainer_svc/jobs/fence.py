"""The fence: only the holder of a job's newest lease changes it, and each change is made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.errors import FailedPrecondition, LeaseLost
from tailorbird.names import JobName
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import EventPayload, StateChanged
from trainer_svc.jobs.model import ACTIVE, JobError, JobState
from trainer_svc.jobs.rows import Change, Decide, apply, ended, events_after, job_row


@dataclass(slots=True)
class Lease:
    """The right to change a job, until somebody takes a later epoch.

    `sequence` is the newest event that the holder knows of. While it holds the job nobody else
    appends any, so that a write whose answer was lost is known again when it is done again.
    """

    job: JobName
    epoch: int
    sequence: int


class CancelRequested(FailedPrecondition):
    """The version cannot be committed: a caller has cancelled the job."""

    default_reason = "CANCEL_REQUESTED"


async def write_held(database: Database, lease: Lease, decide: Decide) -> sa.Row[Any] | None:
    """Make a holder's change and return the row as it was before.

    None, and nothing changed, if an earlier try made it and only its answer was lost. LeaseLost,
    and nothing changed, when the job has moved on.
    """
    async with database.write() as connection:
        row = await job_row(connection, lease.job, lock=True)
        _check(row, lease, row.lease_epoch == lease.epoch)
        payloads, values = decide(row)
        made = await _made(connection, row, lease, payloads)
        if not made:
            _check(row, lease, JobState(row.state) in ACTIVE)
            await apply(connection, row, payloads, values)
    lease.sequence = row.last_sequence + (0 if made else len(payloads))
    return None if made else row


def uncommitted(decide: Decide) -> Decide:
    """Refuse a change of a job whose version is committed: whatever happens, it will exist."""

    def checked(row: sa.Row[Any]) -> Change:
        if row.publication is not None:
            raise FailedPrecondition(f"the version of {row.job} is committed")
        return decide(row)

    return checked


def give_back(row: sa.Row[Any], error: JobError | None = None) -> Change:
    """Return what becomes of a job that nobody works on any more: see `JobStore.release`."""
    if row.cancel_requested:
        return [StateChanged(state=JobState.CANCELLED)], ended(JobState.CANCELLED)
    state = JobState.PAUSED if row.pause_requested or error else JobState.QUEUED
    values = {
        "state": state,
        "lease_owner": None,
        "pause_requested": False,
        "error": error and error.model_dump(mode="json"),
    }
    return [StateChanged(state=state, error=error)], values


def _check(row: sa.Row[Any], lease: Lease, holds: bool) -> None:
    if not holds:
        raise LeaseLost(
            f"{lease.job} is {row.state} under epoch {row.lease_epoch}, not {lease.epoch}"
        )


async def _made(
    connection: AsyncConnection, row: sa.Row[Any], lease: Lease, payloads: Sequence[EventPayload]
) -> bool:
    """Tell whether the newest events, none of which the holder knows of, are `payloads`."""
    before = row.last_sequence - len(payloads)
    if not payloads or before < lease.sequence:
        return False
    stored = await events_after(connection, lease.job, before)
    return stored == [payload.model_dump(mode="json") for payload in payloads]

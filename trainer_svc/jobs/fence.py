"""The fence: only the holder of a job's newest lease changes it, and each change is made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tailorbird.errors import FailedPrecondition, LeaseLost
from tailorbird.names import JobName
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import JobWarning
from trainer_svc.jobs.model import ACTIVE, Faults, JobError, JobState
from trainer_svc.jobs.rows import Change, Decide, apply, job_row


@dataclass(frozen=True, slots=True)
class Write:
    """One change that a lease's holder makes, however often it must be asked for."""

    job: JobName
    epoch: int
    number: int


@dataclass(slots=True)
class Lease:
    """The right to change a job, until somebody takes a later epoch."""

    job: JobName
    epoch: int
    writes: int = 0

    def write(self) -> Write:
        """Begin the next change. What is asked for again with the same `Write` is made once."""
        self.writes += 1
        return Write(self.job, self.epoch, self.writes)


@dataclass(frozen=True, slots=True)
class GivenBack:
    """How a holder lets go of a job that has not ended."""

    error: JobError | None = None
    """What somebody must mend first: the job is PAUSED."""
    faults: Faults | None = None
    """What went wrong so far; None: nothing more than before."""
    pause: float = 0.0
    """Seconds for which nobody takes it up."""
    told: JobWarning | None = None
    """Why it waits."""


class CancelRequested(FailedPrecondition):
    """The version cannot be committed: a caller has cancelled the job."""

    default_reason = "CANCEL_REQUESTED"


async def write_held(database: Database, write: Write, decide: Decide) -> sa.Row[Any]:
    """Make a holder's change and return the row as it was before.

    If an earlier try made it and only its answer was lost, nothing is changed, and the row is what
    came of it. LeaseLost, and nothing changed, when the job has moved on.
    """
    async with database.write() as connection:
        row = await job_row(connection, write.job, lock=True)
        _check(row, write, row.lease_epoch == write.epoch)
        if row.lease_write >= write.number:
            return row
        _check(row, write, JobState(row.state) in ACTIVE and row.lease_owner is not None)
        payloads, values = decide(row)
        numbered = values | {"lease_write": write.number}
        await apply(connection, row, payloads, numbered)
        return row


def uncommitted(decide: Decide) -> Decide:
    """Refuse a change of a job whose version is committed: whatever happens, it will exist."""

    def checked(row: sa.Row[Any]) -> Change:
        if row.publication is not None:
            raise FailedPrecondition(f"the version of {row.job} is committed")
        return decide(row)

    return checked


def _check(row: sa.Row[Any], write: Write, holds: bool) -> None:
    if not holds:
        raise LeaseLost(
            f"{write.job} is not leased under epoch {write.epoch} any more: it is {row.state}, and "
            f"its newest epoch is {row.lease_epoch}"
        )

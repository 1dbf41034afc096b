"""Rows of the job store: how they are read, and how a change of state appends its events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.errors import FailedPrecondition, NotFound
from tailorbird.names import JobName
from trainer_svc.jobs.model import (
    Evaluation,
    EventPayload,
    Job,
    JobState,
    Prepared,
    Progress,
    StateChanged,
    StepProgress,
    may_follow,
)
from trainer_svc.jobs.tables import events, jobs


def consequence(progress: Progress, payload: EventPayload) -> tuple[Progress, dict[str, Any]]:
    """Return what an event changes: the latest figures, and columns of the job."""
    match payload:
        case StateChanged(state=state):
            return progress, {"state": state}
        case Prepared(hyperparameters=used, total_steps=steps):
            values = {"effective_hyperparameters": used.model_dump(mode="json")}
            return progress.model_copy(update={"total_steps": steps}), values
        case StepProgress(step=step, total_steps=total, loss=loss):
            taken = {"step": step, "total_steps": total, "loss": loss}
            return progress.model_copy(update=taken), {}
        case Evaluation(validation_loss=loss):
            return progress.model_copy(update={"validation_loss": loss}), {}
        case _:
            return progress, {}


def ended(state: JobState) -> dict[str, Any]:
    """Return the columns of a job that ends in `state`."""
    return {"state": state, "end_time": datetime.now(UTC), "lease_owner": None}


def update_job(name: JobName) -> sa.Update:
    """Start an update of one job."""
    return sa.update(jobs).where(jobs.c.tenant == name.tenant, jobs.c.job == name.job)


async def job_row(connection: AsyncConnection, name: JobName, *, lock: bool = False) -> sa.Row[Any]:
    """Return a job's row, locked until the transaction ends if asked; NotFound if there is none."""
    query = sa.select(jobs).where(jobs.c.tenant == name.tenant, jobs.c.job == name.job)
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise NotFound(name, reason="JOB_NOT_FOUND")
    return row


async def append_events(
    connection: AsyncConnection, row: sa.Row[Any], payloads: Sequence[EventPayload]
) -> None:
    """Append events after the last one; FailedPrecondition if a state may not follow."""
    state = JobState(row.state)
    for payload in payloads:
        if isinstance(payload, StateChanged):
            if not may_follow(state, payload.state):
                raise FailedPrecondition(f"{payload.state} may not follow {state}")
            state = payload.state
    if payloads:
        await insert_events(connection, name_of(row), row.last_sequence, payloads)
        values = {"last_sequence": row.last_sequence + len(payloads)}
        await connection.execute(update_job(name_of(row)).values(values))


async def insert_events(
    connection: AsyncConnection, name: JobName, last: int, payloads: Sequence[EventPayload]
) -> None:
    """Store events with the sequences after `last`."""
    now = datetime.now(UTC)
    rows = [
        {
            "tenant": name.tenant,
            "job": name.job,
            "sequence": last + offset,
            "time": now,
            "payload": payload.model_dump(mode="json"),
        }
        for offset, payload in enumerate(payloads, start=1)
    ]
    await connection.execute(sa.insert(events), rows)


def name_of(row: sa.Row[Any]) -> JobName:
    """Return the job a row is of."""
    return JobName(row.tenant, row.job)


def to_job(row: sa.Row[Any]) -> Job:
    """Return the job a row holds."""
    return Job.model_validate(
        {
            "name": name_of(row),
            "spec": row.spec,
            "state": row.state,
            "create_time": utc(row.create_time),
            "start_time": utc(row.start_time),
            "end_time": utc(row.end_time),
            "error": row.error,
            "progress": row.progress,
            "effective_hyperparameters": row.effective_hyperparameters,
            "version": row.version,
            "promoted": row.promoted,
            "promotion_refusal": row.promotion_refusal,
            "lease_epoch": row.lease_epoch,
            "cancel_requested": row.cancel_requested,
        }
    )


def utc(time: datetime | None) -> datetime | None:
    """Return a stored time with its zone: SQLite keeps none, what is stored is UTC."""
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)

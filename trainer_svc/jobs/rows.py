"""Rows of the job store: how they are read, and how a change of state appends its events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

import sqlalchemy as sa
import structlog
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.errors import FailedPrecondition, NotFound
from tailorbird.names import JobName
from trainer_svc.jobs.database import clock
from trainer_svc.jobs.events import (
    CheckpointSaved,
    Evaluation,
    EventPayload,
    Prepared,
    StateChanged,
    StepProgress,
)
from trainer_svc.jobs.model import (
    TERMINAL,
    Faults,
    Job,
    JobState,
    Left,
    Progress,
    may_follow,
    stored_state,
)
from trainer_svc.jobs.notices import notify
from trainer_svc.jobs.sweep import RungDecided, SweepResults, TrialReached
from trainer_svc.jobs.tables import events, jobs

_log = structlog.get_logger(__name__)

RECORD_VERSION = 2
"""Of the records that this release writes.

1: releases before leases had an end. It is told so that a record can be understood whose meaning
has changed; none has so far, and every reader ignores what it does not know.
"""

Change = tuple[Sequence[EventPayload], dict[str, Any]]
"""Events to append to a job's history, and the columns that change with them."""

Decide = Callable[[sa.Row[Any]], Change]
"""What is to be done with a job, seeing its row under a lock."""


def left_by(row: sa.Row[Any]) -> Left:
    """Return what the job of a row leaves if it ends without a version."""
    allocated = row.allocated_version
    return Left(name_of(row), f"{row.adapter}/versions/{allocated}" if allocated else "")


def consequences(row: sa.Row[Any], payloads: Sequence[EventPayload]) -> dict[str, Any]:
    """Return the columns of a job that change with events of its run.

    Of the figures, those that a later release has added stay as they are.
    """
    values: dict[str, Any] = {}
    progress = before = Progress.model_validate(row.progress or {})
    for payload in payloads:
        progress, changes = _consequence(progress, payload)
        values |= changes
    if progress != before:
        values["progress"] = {**(row.progress or {}), **progress.model_dump(mode="json")}
    if row.faults is not None and any(isinstance(each, CheckpointSaved) for each in payloads):
        # What comes next begins at a later place.
        kept = Faults.model_validate(row.faults).model_copy(update={"attempts": 0})
        values["faults"] = {**row.faults, **kept.model_dump(mode="json")}
    if row.sweep is not None and (results := _results(row.sweep, payloads)) is not None:
        values["sweep"] = _over(row.sweep, results.model_dump(mode="json"))
    return values


def _over(stored: Any, written: Any) -> Any:
    """Return what is written, with what only a later release knows of, however deep it stands."""
    if isinstance(stored, dict) and isinstance(written, dict):
        return stored | {key: _over(stored.get(key), value) for key, value in written.items()}
    if isinstance(stored, list) and isinstance(written, list):
        return [_over(*pair) for pair in zip_longest(stored[: len(written)], written)]
    return written


def _results(stored: Any, payloads: Sequence[EventPayload]) -> SweepResults | None:
    """Return what is known of a sweep's trials after these events; None if they tell nothing."""
    told = [each for each in payloads if isinstance(each, TrialReached | RungDecided)]
    if not told:
        return None
    results = SweepResults.model_validate(stored)
    for event in told:
        results = results.after(event)
    return results


def _consequence(progress: Progress, payload: EventPayload) -> tuple[Progress, dict[str, Any]]:
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


def begun(job: Job, request_id: str, request_sha256: str, last: int) -> dict[str, Any]:
    """Return the columns of a job that its first `last` events have just begun."""
    return {
        "tenant": job.name.tenant,
        "job": job.name.job,
        "request_id": request_id or None,
        "request_sha256": request_sha256,
        "spec": job.spec.model_dump(mode="json"),
        "adapter": job.spec.adapter,
        "state": stored_state(job.state, sweep=job.sweep is not None),
        "create_time": job.create_time,
        "cancel_requested": False,
        "pause_requested": False,
        "lease_epoch": 0,
        "version": "",
        "promoted": False,
        "promotion_refusal": "",
        "last_sequence": last,
        "sweep": job.sweep and job.sweep.model_dump(mode="json"),
        "priority": job.spec.priority,
        "record_version": RECORD_VERSION,
    }


def ended(state: JobState) -> dict[str, Any]:
    """Return the columns of a job that ends in `state`; `apply` adds when."""
    return {
        "state": state,
        "lease_owner": None,
        "lease_expires": None,
        "not_before": None,
        "pause_requested": False,
    }


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


def in_state(*states: JobState) -> sa.ColumnElement[bool]:
    """Narrow a query to jobs in one of these states, sweeps or not."""
    sweeps = False, True
    return jobs.c.state.in_({stored_state(state, sweep=s) for state in states for s in sweeps})


async def lock_queued(connection: AsyncConnection, name: JobName) -> sa.Row[Any] | None:
    """Return a job's row, locked, if the job is still queued and nobody else has locked it."""
    query = sa.select(jobs).where(
        jobs.c.tenant == name.tenant, jobs.c.job == name.job, in_state(JobState.QUEUED)
    )
    locked = await connection.execute(query.with_for_update(skip_locked=True))
    return locked.one_or_none()


async def apply(
    connection: AsyncConnection,
    row: sa.Row[Any],
    payloads: Sequence[EventPayload],
    values: dict[str, Any],
) -> None:
    """Change columns of a locked row and append events after its last, by the database's clock.

    FailedPrecondition if a state may not follow.
    """
    now = await clock(connection)
    state = JobState(row.state)
    for payload in payloads:
        if isinstance(payload, StateChanged):
            if not may_follow(state, payload.state):
                raise FailedPrecondition(f"{payload.state} may not follow {state}")
            state = payload.state
    if payloads:
        await insert_events(connection, name_of(row), row.last_sequence, payloads, now)
        values = values | {"last_sequence": row.last_sequence + len(payloads)}
    if "state" in values:
        state = JobState(values["state"])
        values = values | {"state": stored_state(state, sweep=row.sweep is not None)}
        if state in TERMINAL:
            values["end_time"] = now
    if values:
        await connection.execute(update_job(name_of(row)).values(values))
    await notify(connection, name_of(row), state)


async def insert_events(
    connection: AsyncConnection,
    name: JobName,
    last: int,
    payloads: Sequence[EventPayload],
    now: datetime,
) -> None:
    """Store events of the time `now` with the sequences after `last`."""
    rows = [
        {
            "tenant": name.tenant,
            "job": name.job,
            "sequence": last + offset,
            "time": now,
            "payload": payload.model_dump(mode="json"),
            "record_version": RECORD_VERSION,
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
            "pause_requested": row.pause_requested,
            "sweep": row.sweep,
            "faults": row.faults or {},
        }
    )


def readable(row: sa.Row[Any]) -> Job | None:
    """Return the job, or None if this release cannot read it: then it is left to a later one."""
    try:
        return to_job(row)
    except ValidationError as error:
        _log.warning("job not understood", job=str(name_of(row)), errors=error.error_count())
        return None


def utc(time: datetime | None) -> datetime | None:
    """Return a stored time with its zone: SQLite keeps none, what is stored is UTC."""
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)

"""What callers ask of a job that exists: what each request changes, or why it comes too late."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tailorbird.errors import FailedPrecondition
from trainer_svc.jobs.events import StateChanged
from trainer_svc.jobs.model import ACTIVE, WAITING, JobState
from trainer_svc.jobs.rows import Change, ended, name_of

_NOTHING: Change = ([], {})


def cancel(row: sa.Row[Any]) -> Change:
    """Stop a job: at once if no worker has it."""
    state = JobState(row.state)
    if state is JobState.CANCELLED:
        return _NOTHING
    _check_open(row, "cancelled", "JOB_NOT_CANCELLABLE")
    if state in WAITING:
        values = ended(JobState.CANCELLED) | {"cancel_requested": True, "error": None}
        return [StateChanged(state=JobState.CANCELLED)], values
    return [], {"cancel_requested": True}


def pause(row: sa.Row[Any]) -> Change:
    """Hold a job back: at once if no worker has it."""
    state = JobState(row.state)
    if state is JobState.PAUSED:
        return _NOTHING
    _check_open(row, "paused", "JOB_NOT_PAUSABLE")
    if row.cancel_requested:
        raise _refusal(row, "paused", "JOB_NOT_PAUSABLE", "it is being cancelled")
    if state is JobState.QUEUED:
        return [StateChanged(state=JobState.PAUSED)], {"state": JobState.PAUSED}
    return [], {"pause_requested": True}


def resume(row: sa.Row[Any]) -> Change:
    """Let a job go on; one that is not held back goes on as it does."""
    state = JobState(row.state)
    if state is JobState.PAUSED:
        values = {
            "state": JobState.QUEUED,
            "pause_requested": False,
            "not_before": None,
            "error": None,
        }
        return [StateChanged(state=JobState.QUEUED)], values
    if state not in ACTIVE | WAITING:
        raise _refusal(row, "resumed", "JOB_NOT_RESUMABLE", f"it is {row.state}")
    return [], {"pause_requested": False}


def _check_open(row: sa.Row[Any], what: str, reason: str) -> None:
    if JobState(row.state) not in ACTIVE | WAITING:
        raise _refusal(row, what, reason, f"it is {row.state}")
    if row.publication is not None:
        raise _refusal(row, what, reason, "its version is committed")


def _refusal(row: sa.Row[Any], what: str, reason: str, detail: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{name_of(row)} cannot be {what}: {detail}", reason=reason, state=row.state
    )

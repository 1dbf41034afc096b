"""When a job may be deleted. Pure."""

from __future__ import annotations

from tailorbird.errors import FailedPrecondition
from tailorbird.names import JobName
from trainer_svc.jobs.model import TERMINAL, JobState

JOB_NOT_DELETABLE = "JOB_NOT_DELETABLE"


def check_ended(name: JobName, state: JobState) -> None:
    """Raise FailedPrecondition (JOB_NOT_DELETABLE) if a job in `state` has not ended."""
    if state not in TERMINAL:
        raise FailedPrecondition(
            f"{name} cannot be deleted: it is {state}; cancel it first",
            reason=JOB_NOT_DELETABLE,
            state=state,
        )

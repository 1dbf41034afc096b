"""What the events of a job's history say together."""

from __future__ import annotations

from datetime import UTC, datetime

from trainer_svc.jobs.events import JobEvent, JobWarning, StateChanged, Unknown, created_with
from trainer_svc.jobs.model import JobState

QUEUED, PREPARING = (StateChanged(state=state) for state in (JobState.QUEUED, JobState.PREPARING))
FIRST, SECOND, LATE = (JobWarning(reason=reason, message="m") for reason in ("A", "B", "C"))


def history(*payloads: StateChanged | JobWarning | Unknown) -> list[JobEvent]:
    return [
        JobEvent(sequence=place, time=datetime.now(UTC), payload=payload)
        for place, payload in enumerate(payloads, start=1)
    ]


def test_the_warnings_of_a_creation_follow_its_first_event_at_once() -> None:
    told = history(QUEUED, FIRST, SECOND, PREPARING, LATE)
    assert created_with(told) == (FIRST, SECOND)
    assert created_with(told[:2]) == (FIRST,)
    assert created_with(history(QUEUED, PREPARING, LATE)) == ()
    assert created_with(history(QUEUED, Unknown(kind="later"), LATE)) == ()
    assert created_with([]) == ()

"""How a job is shown, in each of its states."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.trainer_svc.values import make_bases, make_job
from trainer_svc.http.convert_jobs import job_json
from trainer_svc.jobs.learning_rate import auto_learning_rate
from trainer_svc.jobs.model import Hyperparameters, Job, JobError, JobState, LoraSpec

BASES = make_bases("base", "other")
RATE = auto_learning_rate(64, LoraSpec())


def job(rate: float | None = None, **fields: Any) -> Job:
    made = make_job()
    chosen = Hyperparameters(learning_rate=rate)
    spec = made.spec.model_copy(update={"hyperparameters": chosen})
    return made.model_copy(update={"spec": spec, **fields})


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (JobState.QUEUED, "queued"),
        (JobState.PREPARING, "validating_files"),
        (JobState.RUNNING, "running"),
        (JobState.EVALUATING, "running"),
        (JobState.PUBLISHING, "running"),
        (JobState.PAUSED, "paused"),
        (JobState.SUCCEEDED, "succeeded"),
        (JobState.FAILED, "failed"),
        (JobState.CANCELLED, "cancelled"),
        (JobState.UNSPECIFIED, "running"),
    ],
)
def test_each_state_is_one_that_openai_s_clients_know(state: JobState, status: str) -> None:
    assert job_json(job(state=state), BASES)["status"] == status


def test_what_was_chosen_is_shown_once_it_is() -> None:
    asked = job_json(job(), BASES)
    assert asked["hyperparameters"]["n_epochs"] == "auto"
    assert asked["seed"] == 0
    chosen = Hyperparameters(learning_rate=RATE, epochs=3, seed=9)
    shown = job_json(job(effective_hyperparameters=chosen), BASES)
    assert (shown["hyperparameters"]["n_epochs"], shown["seed"]) == (3, 9)
    # It was not asked for.
    assert shown["hyperparameters"]["learning_rate_multiplier"] == "auto"


def test_a_rate_is_shown_as_a_multiple_of_its_base_s() -> None:
    def shown(job: Job) -> Any:
        return job_json(job, BASES)["hyperparameters"]["learning_rate_multiplier"]

    assert shown(job(rate=RATE / 4)) == 0.25
    replaced = job(rate=RATE)
    gone = replaced.spec.model_copy(update={"base_model": "x", "base_model_digest": "sha256:x"})
    assert shown(replaced.model_copy(update={"spec": gone})) is None


def test_an_end_and_an_error_are_shown() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    error = JobError(reason="NO_ROOM", message="it is too large")
    shown = job_json(job(state=JobState.FAILED, end_time=now, error=error), BASES)
    assert shown["finished_at"] == int(now.timestamp())
    assert shown["error"] == {"code": "NO_ROOM", "message": "it is too large", "param": None}

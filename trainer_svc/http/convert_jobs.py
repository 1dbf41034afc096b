"""A fine-tuning job as OpenAI has it, shown."""

from __future__ import annotations

from typing import Any

from trainer_svc.bases import BaseModels
from trainer_svc.http.convert_request import AUTO, SUPERVISED
from trainer_svc.http.ids import file_id, job_id
from trainer_svc.jobs.learning_rate import auto_learning_rate
from trainer_svc.jobs.model import Job, JobSpec, JobState, LoraSpec

_STATUSES = {
    JobState.QUEUED: "queued",
    JobState.PREPARING: "validating_files",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.PAUSED: "paused",
}
_RUNNING = "running"


def job_json(job: Job, bases: BaseModels) -> dict[str, Any]:
    """Return OpenAI's object for a job."""
    spec = job.spec
    hyperparameters = _hyperparameters(job, bases)
    effective = job.effective_hyperparameters or spec.hyperparameters
    return {
        "id": job_id(job.name),
        "object": "fine_tuning.job",
        "created_at": int(job.create_time.timestamp()),
        "finished_at": None if job.end_time is None else int(job.end_time.timestamp()),
        "status": _STATUSES.get(job.state, _RUNNING),
        "model": spec.from_version or spec.base_model,
        "fine_tuned_model": job.version or None,
        "organization_id": job.name.tenant,
        "training_file": file_id(spec.training_dataset),
        "validation_file": spec.validation_dataset and file_id(spec.validation_dataset),
        "result_files": [],
        "hyperparameters": hyperparameters,
        "method": {"type": SUPERVISED, SUPERVISED: {"hyperparameters": hyperparameters}},
        "seed": effective.seed or 0,
        "user_provided_suffix": spec.adapter_name.adapter,
        "metadata": spec.labels,
        "integrations": [],
        "trained_tokens": None,
        "estimated_finish": None,
        "error": None
        if job.error is None
        else {"code": job.error.reason, "message": job.error.message, "param": None},
    }


def _hyperparameters(job: Job, bases: BaseModels) -> dict[str, Any]:
    effective = job.effective_hyperparameters or job.spec.hyperparameters
    return {
        "n_epochs": AUTO if effective.epochs is None else effective.epochs,
        "batch_size": AUTO,
        "learning_rate_multiplier": _multiplier(job.spec, bases),
    }


def _multiplier(spec: JobSpec, bases: BaseModels) -> float | str | None:
    """Return how many times the usual rate was asked for; None if its base is not offered now."""
    rate = spec.hyperparameters.learning_rate
    if rate is None:
        return AUTO
    base = bases.held(spec.base_model, spec.base_model_digest)
    if base is None:
        return None
    return round(rate / auto_learning_rate(base.hidden_size, LoraSpec()), 6)

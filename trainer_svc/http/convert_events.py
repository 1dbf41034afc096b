"""A job's history as OpenAI has it: a line for a person, and the figures for a program."""

from __future__ import annotations

import math
from typing import Any

from tailorbird.names import JobName
from trainer_svc.http.ids import entry_id, job_id
from trainer_svc.jobs import events
from trainer_svc.jobs.history import Checkpoint
from trainer_svc.jobs.sweep import RungDecided, TrialReached

EVENT, CHECKPOINT = "ftevent", "ftckpt"


def event_json(name: JobName, event: events.JobEvent) -> dict[str, Any]:
    """Return OpenAI's object for an event; its data are the event's own fields, by OpenAI's names.

    That is `train_loss` of a step, and `valid_loss` of an evaluation.
    """
    data = event.payload.model_dump(mode="json", exclude={"kind"})
    level, message = "info", ""
    match event.payload:
        case events.StateChanged(state=state, error=error):
            message = f"The job is {state}."
            if error is not None:
                level = "error"
                message = f"The job is {state}: {error.reason}: {error.message}"
        case events.Prepared(training=training, total_steps=steps):
            message = (
                f"{training.kept} of {training.records} records are trained, in {steps} steps."
            )
        case events.StepProgress(step=step, total_steps=steps, loss=loss):
            data["train_loss"] = data.pop("loss")
            message = f"Step {step}/{steps}: training loss={loss:.4g}"
        case events.Evaluation(step=step, validation_loss=loss):
            data["valid_loss"] = data.pop("validation_loss")
            message = f"Step {step}: validation loss={loss:.4g}"
        case events.Judged(judgement=judgement):
            message = f"The version was judged on {judgement.records} held-out records."
        case events.CheckpointSaved(step=step):
            message = f"A checkpoint is saved at step {step}."
        case events.Resumed(resumed_from_step=step):
            message = f"The run goes on from step {step}."
        case events.Published(version=version, promoted=promoted):
            routed = "and gets the adapter's traffic" if promoted else "and gets no traffic yet"
            message = f"{version} is published {routed}."
        case events.JobWarning(reason=reason, message=text):
            level, message = "warn", f"{reason}: {text}"
        case TrialReached():
            message = "A trial of the sweep has come to a rung."
        case RungDecided():
            message = "It is decided which trials of the sweep go on."
        case events.Unknown():
            message = "A later release has recorded what this one does not know."
    figures = isinstance(event.payload, events.StepProgress | events.Evaluation)
    return {
        "id": entry_id(EVENT, name, event.sequence),
        "object": "fine_tuning.job.event",
        "created_at": int(event.time.timestamp()),
        "level": level,
        "message": message,
        "type": "metrics" if figures else "message",
        "data": _finite(data),
    }


def checkpoint_json(name: JobName, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return OpenAI's object for a checkpoint, which is no model that can be asked."""
    metrics = {
        "step": checkpoint.step,
        "train_loss": checkpoint.train_loss,
        "full_valid_loss": checkpoint.valid_loss,
    }
    return {
        "id": entry_id(CHECKPOINT, name, checkpoint.sequence),
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(checkpoint.time.timestamp()),
        "fine_tuning_job_id": job_id(name),
        "fine_tuned_model_checkpoint": None,
        "step_number": checkpoint.step,
        "metrics": {key: value for key, value in metrics.items() if value is not None},
    }


def _finite(value: Any) -> Any:
    """Return a value with null for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value

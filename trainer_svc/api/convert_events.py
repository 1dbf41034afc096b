"""A job's events as messages."""

from __future__ import annotations

from typing import Any

from tailorbird.rpc.judgement import judgement_to_proto
from tailorbird.rpc.status import stored_status
from tailorbird.tuning.v1 import job_pb2
from trainer_svc.api.convert import hyperparameters_to_proto, state_to_proto, timestamp
from trainer_svc.jobs import events
from trainer_svc.jobs.sweep import RungDecided, TrialReached
from trainer_svc.record import Record


def event_to_proto(event: events.JobEvent) -> job_pb2.JobEvent:
    """Return the message for an event."""
    message = job_pb2.JobEvent(sequence=event.sequence, time=timestamp(event.time))
    match event.payload:
        case events.StateChanged(state=state, error=error):
            message.state_changed.state = state_to_proto(state)
            if error is not None:
                message.state_changed.error.CopyFrom(
                    stored_status(error.reason, error.message, error.metadata)
                )
        case events.Prepared() as prepared:
            message.prepared.CopyFrom(_prepared(prepared))
        case events.StepProgress() as progress:
            message.step_progress.CopyFrom(job_pb2.JobEvent.StepProgress(**_fields(progress)))
        case events.Evaluation() as evaluation:
            message.evaluation.CopyFrom(job_pb2.JobEvent.Evaluation(**_fields(evaluation)))
        case events.Judged(judgement=judgement):
            message.judged.CopyFrom(judgement_to_proto(judgement.model_dump(mode="json")))
        case events.CheckpointSaved(step=step):
            message.checkpoint_saved.step = step
        case events.Resumed() as resumed:
            message.resumed.CopyFrom(job_pb2.JobEvent.Resumed(**_fields(resumed)))
        case events.Published() as published:
            message.published.CopyFrom(job_pb2.JobEvent.Published(**_fields(published)))
        case TrialReached() as reached:
            message.trial_reached.CopyFrom(job_pb2.JobEvent.TrialReached(**_fields(reached)))
        case RungDecided() as decided:
            message.rung_decided.CopyFrom(job_pb2.JobEvent.RungDecided(**_fields(decided)))
        case events.JobWarning() as warning:
            message.warning.CopyFrom(job_pb2.JobEvent.Warning(**_fields(warning)))
    return message


def _prepared(prepared: events.Prepared) -> job_pb2.JobEvent.Prepared:
    message = job_pb2.JobEvent.Prepared(
        training=job_pb2.DataReport(**prepared.training.model_dump()),
        hyperparameters=hyperparameters_to_proto(prepared.hyperparameters),
        total_steps=prepared.total_steps,
        trainable_parameters=prepared.trainable_parameters,
        reasons=prepared.reasons,
    )
    if prepared.validation is not None:
        message.validation.CopyFrom(job_pb2.DataReport(**prepared.validation.model_dump()))
    return message


def _fields(payload: Record) -> dict[str, Any]:
    return payload.model_dump(exclude={"kind"})

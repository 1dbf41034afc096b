"""What a job would do with its data, as messages."""

from __future__ import annotations

from tailorbird.tuning.v1 import job_pb2, preflight_pb2
from trainer_svc.api.convert import hyperparameters_to_proto
from trainer_svc.jobs.preflight import CheckedData, Preflight

_Message = preflight_pb2.Preflight


def preflight_to_proto(found: Preflight | None) -> preflight_pb2.Preflight | None:
    """Return the message, or None where nothing was checked."""
    if found is None:
        return None
    return _Message(
        training=_data(found.training),
        validation=None if found.validation is None else _data(found.validation),
        held_out=found.held_out,
        hyperparameters=hyperparameters_to_proto(found.hyperparameters),
        reasons=found.reasons,
        total_steps=found.total_steps,
    )


def _data(data: CheckedData) -> preflight_pb2.Preflight.CheckedData:
    return _Message.CheckedData(
        account=job_pb2.DataReport(**data.account.model_dump()),
        too_long_fraction=data.too_long_fraction,
        median=data.median,
        longest=data.longest,
        lengths=[_Message.TokenBin(**each.model_dump()) for each in data.lengths],
    )

"""Between protobuf and the domain: every field checked by its rule in job.proto, and named."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from tailorbird.base_model import BaseModelFiles
from tailorbird.errors import InvalidArgument
from tailorbird.names import AdapterName, DatasetName, TenantName, VersionName
from tailorbird.rpc.paging import page_position
from tailorbird.rpc.status import stored_status
from tailorbird.servable import LINEAR_MODULES
from tailorbird.tuning.v1 import job_pb2, tuning_service_pb2
from trainer_svc.api.convert_evaluation import evaluation_from_proto, evaluation_to_proto
from trainer_svc.api.text import check_texts
from trainer_svc.datasets.report.limits import DataLimits
from trainer_svc.jobs import model
from trainer_svc.jobs.job_data import is_uri
from trainer_svc.jobs.limits import HIGHEST_PRIORITY, LOWEST_PRIORITY
from trainer_svc.protocol import Ready

_MAX_LABELS, _MAX_LABEL_KEY, _MAX_LABEL_VALUE = 32, 63, 255
_MAX_TARGETS = 64

_Number = TypeVar("_Number", int, float)

_TOO_LONG = {
    job_pb2.TOO_LONG_UNSPECIFIED: model.TooLong.DROP,
    job_pb2.TOO_LONG_TRUNCATE: model.TooLong.TRUNCATE,
    job_pb2.TOO_LONG_DROP: model.TooLong.DROP,
    job_pb2.TOO_LONG_ERROR: model.TooLong.ERROR,
}
_POLICIES = {
    job_pb2.PROMOTION_POLICY_UNSPECIFIED: model.PromotionPolicy.AUTO_IF_BETTER,
    job_pb2.PROMOTION_POLICY_ALWAYS: model.PromotionPolicy.ALWAYS,
    job_pb2.PROMOTION_POLICY_MANUAL: model.PromotionPolicy.MANUAL,
    job_pb2.PROMOTION_POLICY_AUTO_IF_BETTER: model.PromotionPolicy.AUTO_IF_BETTER,
}
_ISOLATIONS = {
    job_pb2.ISOLATION_UNSPECIFIED: model.Isolation.SHARED,
    job_pb2.ISOLATION_SHARED: model.Isolation.SHARED,
    job_pb2.ISOLATION_EXCLUSIVE: model.Isolation.EXCLUSIVE,
}


def spec_from_proto(spec: job_pb2.JobSpec) -> model.JobSpec:
    """Return a checked specification; InvalidArgument names the field, the value and the limit."""
    at = "job.spec."
    check_texts("job.spec", spec)
    fraction = None
    if spec.HasField("validation_fraction"):
        fraction = within(
            at + "validation_fraction", spec.validation_fraction, 0, 0.5, open_low=True
        )
    validation = None
    if spec.HasField("validation_dataset"):
        validation = _data(spec.validation_dataset, at + "validation_dataset")
    policy = _policy(spec.promotion_policy)
    held_out = policy is model.PromotionPolicy.AUTO_IF_BETTER
    if not held_out and validation is None and fraction is None:
        _check_no_early_stopping(spec.hyperparameters, at + "hyperparameters.")
    judged = evaluation_from_proto(spec.evaluation)
    if policy is model.PromotionPolicy.AUTO_IF_BETTER and not judged.max_records:
        raise InvalidArgument(
            at + "evaluation.max_records", "0 records are judged: AUTO_IF_BETTER needs some"
        )
    return model.JobSpec(
        base_model=spec.base_model,
        training_dataset=_data(spec.training_dataset, at + "training_dataset"),
        validation_dataset=validation,
        validation_fraction=fraction,
        adapter=str(AdapterName.parse(spec.adapter, at + "adapter")),
        lora=lora_from_proto(spec.lora).chosen(),
        hyperparameters=_hyperparameters(spec.hyperparameters, at + "hyperparameters."),
        promotion_policy=policy,
        isolation=_isolation(spec.isolation),
        priority=within(at + "priority", spec.priority, LOWEST_PRIORITY, HIGHEST_PRIORITY),
        from_version=_version(spec.from_version, at + "from_version"),
        evaluation=judged,
        labels=_labels(spec.labels),
        data=_data_policy(spec.data),
        data_limits=_data_limits(spec.data_limits, at + "data_limits."),
    )


def _check_no_early_stopping(given: job_pb2.Hyperparameters, at: str) -> None:
    if given.early_stopping_patience:
        raise InvalidArgument(
            at + "early_stopping_patience",
            "needs validation data: give validation_dataset or validation_fraction, or a "
            "promotion_policy of AUTO_IF_BETTER, for which a tenth is held out",
        )


def _data(value: str, field: str) -> str:
    """Return a dataset's name, or a URI as it came: what it may be is for the settings to say."""
    return value if is_uri(value) else str(DatasetName.parse(value, field))


def lora_from_proto(lora: job_pb2.LoraConfig) -> model.AskedLora:
    """Return what of the low-rank update is asked for; InvalidArgument as above."""
    at = "job.spec.lora."
    alpha = None
    if lora.HasField("alpha"):
        alpha = within(at + "alpha", lora.alpha, 0, 1024, open_low=True)
    if len(lora.target_modules) > _MAX_TARGETS:
        raise InvalidArgument(at + "target_modules", f"more than {_MAX_TARGETS} names")
    for index, target in enumerate(lora.target_modules):
        if target not in LINEAR_MODULES:
            known = ", ".join(sorted(LINEAR_MODULES))
            raise InvalidArgument(
                f"{at}target_modules[{index}]", f"{target[:80]!r} is not one of {known}"
            )
    return model.AskedLora(
        rank=lora.rank if lora.HasField("rank") else None,
        alpha=alpha,
        target_modules=tuple(sorted(set(lora.target_modules))),
        use_rslora=lora.use_rslora,
        dropout=within(at + "dropout", lora.dropout, 0, 1, open_high=True),
    )


def _hyperparameters(given: job_pb2.Hyperparameters, at: str) -> model.Hyperparameters:
    def number(field: str, low: float, high: float, *, open_low: bool = False) -> float | None:
        if not given.HasField(field):  # type: ignore[arg-type]
            return None
        return within(at + field, float(getattr(given, field)), low, high, open_low=open_low)

    def whole(field: str, low: int, high: int) -> int | None:
        if not given.HasField(field):  # type: ignore[arg-type]
            return None
        return within(at + field, int(getattr(given, field)), low, high)

    most = 2**31 - 1
    return model.Hyperparameters(
        learning_rate=number("learning_rate", 0, 1, open_low=True),
        epochs=whole("epochs", 1, 1000),
        batch_tokens=whole("batch_tokens", 64, 2**20),
        max_sequence_length=whole("max_sequence_length", 16, most),
        warmup_ratio=number("warmup_ratio", 0, 0.5),
        weight_decay=number("weight_decay", 0, 1),
        seed=whole("seed", 0, most),
        evaluation_interval=whole("evaluation_interval", 1, most),
        checkpoint_interval=whole("checkpoint_interval", 1, most),
        early_stopping_patience=whole("early_stopping_patience", 0, 1000),
    )


def _data_limits(given: job_pb2.DataLimits, at: str) -> DataLimits:
    asked = {field.name: value for field, value in given.ListFields()}
    return DataLimits(**{field: within(at + field, asked[field], 0, 1) for field in asked})


def _version(name: str, at: str) -> str:
    return str(VersionName.parse(name, at)) if name else ""


def _policy(policy: job_pb2.PromotionPolicy.ValueType) -> model.PromotionPolicy:
    if policy not in _POLICIES:
        raise InvalidArgument("job.spec.promotion_policy", f"{policy} is not a policy")
    return _POLICIES[policy]


def _isolation(isolation: job_pb2.Isolation.ValueType) -> model.Isolation:
    if isolation not in _ISOLATIONS:
        raise InvalidArgument("job.spec.isolation", f"{isolation} is not an isolation")
    return _ISOLATIONS[isolation]


def _data_policy(policy: job_pb2.DataPolicy) -> model.DataPolicy:
    at = "job.spec.data."
    if policy.too_long not in _TOO_LONG:
        raise InvalidArgument(at + "too_long", f"{policy.too_long} is not such a rule")
    most = model.USUAL_TOO_LONG_FRACTION
    if policy.HasField("max_too_long_fraction"):
        most = within(at + "max_too_long_fraction", policy.max_too_long_fraction, 0, 1)
    return model.DataPolicy(too_long=_TOO_LONG[policy.too_long], max_too_long_fraction=most)


def _labels(labels: object) -> dict[str, str]:
    given: dict[str, str] = dict(labels)  # type: ignore[call-overload]
    if len(given) > _MAX_LABELS:
        raise InvalidArgument("job.spec.labels", f"{len(given)} labels; at most {_MAX_LABELS}")
    for key, value in given.items():
        if not 1 <= len(key) <= _MAX_LABEL_KEY or len(value) > _MAX_LABEL_VALUE:
            raise InvalidArgument(
                "job.spec.labels",
                f"{key[:80]!r}: keys have 1 to {_MAX_LABEL_KEY} characters,"
                f" values at most {_MAX_LABEL_VALUE}",
            )
    return given


def within(
    field: str,
    value: _Number,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> _Number:
    """Return a value that lies within its limits; InvalidArgument names the field and them."""
    inside = (low < value if open_low else low <= value) and (
        value < high if open_high else value <= high
    )
    if not math.isfinite(value) or not inside:
        limits = f"{'above' if open_low else 'at least'} {low:g} and "
        limits += f"{'below' if open_high else 'at most'} {high:.15g}"
        raise InvalidArgument(field, f"{value:.15g} is not {limits}")
    return value


def state_from_proto(state: job_pb2.JobState.ValueType) -> model.JobState | None:
    """Return the state to filter by, or None for any."""
    if state == job_pb2.JOB_STATE_UNSPECIFIED:
        return None
    try:
        return model.JobState(job_pb2.JobState.Name(state).removeprefix("JOB_STATE_"))
    except ValueError as error:
        raise InvalidArgument("state", f"{state} is not a job state") from error


def position_of(job: model.Job) -> str:
    """Return where the page after `job` begins, for its token."""
    return f"{job.create_time.isoformat()} {job.name.job}"


def position_from_token(parent: TenantName, token: str) -> tuple[datetime, str] | None:
    """Return after which (create_time, job) the page begins, or None for the first page."""
    if not token:
        return None
    time, _, job = page_position(parent, token).partition(" ")
    try:
        return datetime.fromisoformat(time).astimezone(UTC), job
    except ValueError as error:
        raise InvalidArgument("page_token", "not a next_page_token of this method") from error


def base_to_proto(
    base: BaseModelFiles, ranks: list[int], ready: Ready | None
) -> tuning_service_pb2.BaseModel:
    """Return the message for a base model.

    `ranks` are those that jobs on it may ask for, `ready` is what its newest worker said.
    """
    return tuning_service_pb2.BaseModel(
        name=base.name,
        digest=base.digest,
        max_sequence_length=base.max_sequence_length,
        ranks=ranks,
        weight_bytes=base.weight_bytes,
        engine=None if ready is None else _engine_to_proto(ready),
    )


def job_to_proto(job: model.Job) -> job_pb2.Job:
    """Return the message for a job."""
    message = job_pb2.Job(
        name=str(job.name),
        spec=spec_to_proto(job.spec),
        state=state_to_proto(job.state),
        create_time=timestamp(job.create_time),
        version=job.version,
        promoted=job.promoted,
        promotion_refusal=job.promotion_refusal,
        lease_epoch=job.lease_epoch,
        pause_requested=job.pause_requested,
        # The job store has it of those that were cancelled as well.
        cancel_requested=job.cancel_requested and job.state not in model.TERMINAL,
        sweep=str(job.sweep_name or ""),
    )
    if job.error is not None:
        message.error.CopyFrom(
            stored_status(job.error.reason, job.error.message, job.error.metadata)
        )
    if job.start_time is not None:
        message.start_time.CopyFrom(timestamp(job.start_time))
    if job.end_time is not None:
        message.end_time.CopyFrom(timestamp(job.end_time))
    if job.progress is not None:
        message.progress.CopyFrom(job_pb2.JobProgress(**job.progress.model_dump()))
    if job.effective_hyperparameters is not None:
        message.effective_hyperparameters.CopyFrom(
            hyperparameters_to_proto(job.effective_hyperparameters)
        )
    return message


def spec_to_proto(spec: model.JobSpec) -> job_pb2.JobSpec:
    """Return the message for a specification; a sweep's trials are told of elsewhere."""
    message = job_pb2.JobSpec(
        base_model=spec.base_model,
        training_dataset=spec.training_dataset,
        adapter=spec.adapter,
        lora=job_pb2.LoraConfig(**spec.lora.model_dump()),
        hyperparameters=hyperparameters_to_proto(spec.hyperparameters),
        promotion_policy=job_pb2.PromotionPolicy.Value(f"PROMOTION_POLICY_{spec.promotion_policy}"),
        isolation=job_pb2.Isolation.Value(f"ISOLATION_{spec.isolation}"),
        priority=spec.priority,
        from_version=spec.from_version,
        evaluation=evaluation_to_proto(spec.evaluation),
        labels=spec.labels,
        data=job_pb2.DataPolicy(
            too_long=job_pb2.TooLong.Value(f"TOO_LONG_{spec.data.too_long}"),
            max_too_long_fraction=spec.data.max_too_long_fraction,
        ),
    )
    if spec.validation_dataset is not None:
        message.validation_dataset = spec.validation_dataset
    if spec.validation_fraction is not None:
        message.validation_fraction = spec.validation_fraction
    if spec.data_limits.any_set:
        limits = spec.data_limits.model_dump(exclude_none=True)
        message.data_limits.CopyFrom(job_pb2.DataLimits(**limits))
    return message


def hyperparameters_to_proto(values: model.Hyperparameters) -> job_pb2.Hyperparameters:
    """Return the message for hyperparameters; what is None stays unset."""
    return job_pb2.Hyperparameters(**values.model_dump(exclude_none=True))


def state_to_proto(state: model.JobState) -> job_pb2.JobState.ValueType:
    """Return the enum value for a state."""
    return job_pb2.JobState.Value(f"JOB_STATE_{state}")


def timestamp(time: datetime) -> Timestamp:
    """Return the message for a time."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def _engine_to_proto(ready: Ready) -> tuning_service_pb2.Engine:
    return tuning_service_pb2.Engine(**ready.model_dump(exclude={"kind", "device"}))

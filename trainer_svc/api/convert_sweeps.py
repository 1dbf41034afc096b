"""Sweeps between protobuf and the domain: every value held to the rules of the job's own field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tailorbird.errors import FailedPrecondition, InvalidArgument, TailorbirdError
from tailorbird.tuning.v1 import sweep_pb2
from trainer_svc.api.convert import job_to_proto, spec_to_proto, within
from trainer_svc.jobs.model import TERMINAL, Job
from trainer_svc.jobs.sweep import (
    MOST_TRIALS,
    AskedSweep,
    LogRange,
    SearchSpace,
    TrialResult,
    TrialSpec,
    rungs,
)

_MOST_VALUES = 32
_MOST_SEED = 2**31 - 1
_ETAS = (2, 3)
_SPACE = "sweep.space."
_JOB_SPEC, _SWEEP_SPEC = "job.spec.", "sweep.spec."


def asked_from_proto(sweep: sweep_pb2.Sweep) -> AskedSweep:
    """Return what is asked for beside the common part; InvalidArgument names the field."""
    trials = None
    if sweep.HasField("random_trials"):
        trials = within("sweep.random_trials", sweep.random_trials, 2, MOST_TRIALS)
    eta = sweep.eta or _ETAS[0]
    if eta not in _ETAS:
        raise InvalidArgument("sweep.eta", f"{eta} is not one of {list(_ETAS)}")
    return AskedSweep(
        space=_space(sweep.space),
        random_trials=trials,
        seed=within("sweep.seed", sweep.seed, 0, _MOST_SEED),
        eta=eta,
    )


def _space(space: sweep_pb2.SearchSpace) -> SearchSpace:
    for axis in ("ranks", "alphas", "learning_rates", "epochs"):
        _check_axis(_SPACE + axis, getattr(space, axis))
    return SearchSpace(
        ranks=tuple(space.ranks),
        alphas=_numbers("alphas", space.alphas, 1024),
        learning_rates=_numbers("learning_rates", space.learning_rates, 1),
        learning_rate_range=_range(space),
        epochs=tuple(
            within(f"{_SPACE}epochs[{index}]", value, 1, 1000)
            for index, value in enumerate(space.epochs)
        ),
    )


def _check_axis(field: str, values: Sequence[float]) -> None:
    if len(values) > _MOST_VALUES:
        raise InvalidArgument(field, f"{len(values)} values; at most {_MOST_VALUES}")
    if len(set(values)) < len(values):
        twice = next(each for index, each in enumerate(values) if each in values[:index])
        raise InvalidArgument(field, f"{twice:g} stands there twice")


def _numbers(axis: str, values: Sequence[float], most: float) -> tuple[float, ...]:
    return tuple(
        within(f"{_SPACE}{axis}[{index}]", value, 0, most, open_low=True)
        for index, value in enumerate(values)
    )


def _range(space: sweep_pb2.SearchSpace) -> LogRange | None:
    if not space.HasField("learning_rate_range"):
        return None
    at, given = f"{_SPACE}learning_rate_range.", space.learning_rate_range
    low = within(at + "low", given.low, 0, 1, open_low=True)
    return LogRange(low=low, high=within(at + "high", given.high, low, 1, open_low=True))


@contextmanager
def of_sweep() -> Iterator[None]:
    """Name the fields of a job's specification as those of the sweep's."""
    try:
        yield
    except TailorbirdError as error:
        metadata = dict(error.metadata)
        found = metadata.pop("field", "")
        if not found.startswith(_JOB_SPEC):
            raise
        field = _SWEEP_SPEC + found.removeprefix(_JOB_SPEC)
        if isinstance(error, InvalidArgument):
            description = error.description
            raise InvalidArgument(field, description, reason=error.reason, **metadata) from error
        if not isinstance(error, FailedPrecondition):
            error.metadata["field"] = field
            raise
        # Each limit that is exceeded is named in the text as well.
        message = error.message.replace(_JOB_SPEC, _SWEEP_SPEC)
        raise FailedPrecondition(message, reason=error.reason, field=field, **metadata) from error


def sweep_to_proto(job: Job) -> sweep_pb2.Sweep:
    """Return the message for the sweep that a job carries out."""
    spec, results, name = job.spec.sweep, job.sweep, job.sweep_name
    if spec is None or results is None or name is None:
        raise ValueError(f"{job.name} carries out no sweep")
    whole = job_to_proto(job)
    message = sweep_pb2.Sweep(
        name=str(name),
        spec=spec_to_proto(job.spec),
        space=_space_to_proto(spec.asked.space),
        random_trials=spec.asked.random_trials,
        seed=spec.asked.seed,
        eta=spec.asked.eta,
        job=str(job.name),
        state=whole.state,
        rungs=[
            sweep_pb2.Rung(fraction=1 / rung.divisor, keep=rung.keep)
            for rung in rungs(len(spec.trials), spec.asked.eta)
        ],
        rungs_decided=results.decided,
        version=job.version,
        promoted=job.promoted,
        promotion_refusal=job.promotion_refusal,
    )
    for field in ("error", "create_time", "start_time", "end_time", "progress"):
        if whole.HasField(field):
            getattr(message, field).CopyFrom(getattr(whole, field))
    best = results.best(len(message.rungs))
    for index, (trial, result) in enumerate(zip(spec.trials, results.trials, strict=True)):
        message.trials.append(_trial(index, trial, result, job, best=index == best))
    _unset_searched(message)
    return message


def _unset_searched(message: sweep_pb2.Sweep) -> None:
    """Leave out of the common part what each trial has of its own."""
    for axis, part, field in (
        ("ranks", message.spec.lora, "rank"),
        ("alphas", message.spec.lora, "alpha"),
    ):
        if getattr(message.space, axis):
            part.ClearField(field)  # type: ignore[arg-type]
    if message.space.ranks:
        message.spec.lora.ClearField("alpha")


def _space_to_proto(space: SearchSpace) -> sweep_pb2.SearchSpace:
    message = sweep_pb2.SearchSpace(
        ranks=space.ranks,
        alphas=space.alphas,
        learning_rates=space.learning_rates,
        epochs=space.epochs,
    )
    if space.learning_rate_range is not None:
        message.learning_rate_range.CopyFrom(
            sweep_pb2.SearchSpace.LogRange(**space.learning_rate_range.model_dump())
        )
    return message


def _trial(
    index: int, spec: TrialSpec, result: TrialResult, job: Job, *, best: bool
) -> sweep_pb2.Trial:
    rate = spec.learning_rate or job.spec.hyperparameters.learning_rate or result.learning_rate
    message = sweep_pb2.Trial(
        index=index,
        rank=spec.rank,
        alpha=spec.alpha,
        learning_rate=rate,
        epochs=spec.epochs or job.spec.hyperparameters.epochs or result.epochs,
        step=result.rungs[-1].step if result.rungs else 0,
        total_steps=result.total_steps,
        rungs=[sweep_pb2.Trial.RungResult(**each.model_dump()) for each in result.rungs],
        state=sweep_pb2.TRIAL_STATE_ACTIVE,
        stop_reason=result.stop_reason,
        stop_message=result.stop_message,
    )
    if best:
        message.state = sweep_pb2.TRIAL_STATE_BEST
    elif result.stop_reason:
        message.state = sweep_pb2.TRIAL_STATE_STOPPED
    elif job.state in TERMINAL:
        message.state = sweep_pb2.TRIAL_STATE_STOPPED
        message.stop_reason = f"SWEEP_{job.state}"
        message.stop_message = f"the sweep is {job.state}"
    return message

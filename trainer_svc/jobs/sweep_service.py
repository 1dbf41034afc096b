"""What callers may do with sweeps: the use cases behind the four sweep calls of TuningService."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from tailorbird.errors import InvalidArgument, NotFound
from tailorbird.names import AdapterName, JobName, SweepName, TenantName
from trainer_svc.jobs.job_data import JobData
from trainer_svc.jobs.model import AskedLora, Job, JobSpec, JobState
from trainer_svc.jobs.service import Accepted
from trainer_svc.jobs.sweep import (
    AskedSweep,
    Setting,
    SweepResults,
    SweepSpec,
    TrialSpec,
    settings,
)

_FEWEST_RECORDS = 50
"""Training records of which some may be held out where no validation data is named."""


class Jobs(Protocol):
    """The jobs' use cases, as far as a sweep is one job more."""

    async def time(self) -> datetime: ...

    async def made_before(self, tenant: TenantName, request_id: str, sha256: str) -> Job | None: ...

    async def checked(self, tenant: TenantName, spec: JobSpec, lora: AskedLora) -> JobSpec: ...

    def new_name(self, tenant: TenantName, job_id: str, adapter: AdapterName) -> JobName: ...

    async def data(self, tenant: TenantName, spec: JobSpec) -> JobData: ...

    async def accept(
        self, job: Job, data: JobData, request_id: str, sha256: str, *, validate_only: bool
    ) -> Accepted: ...

    async def get_job(self, name: JobName) -> Job: ...

    async def list_jobs(
        self,
        tenant: TenantName,
        *,
        limit: int,
        after: tuple[datetime, str] | None,
        sweeps: bool,
    ) -> tuple[list[Job], bool]: ...

    async def cancel_job(self, name: JobName) -> Job: ...


class SweepService:
    """Creates, shows and cancels sweeps. Each is returned as the job that carries it out."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def create(
        self,
        tenant: TenantName,
        spec: JobSpec,
        lora: AskedLora,
        asked: AskedSweep,
        *,
        sweep_id: str,
        request_id: str,
        validate_only: bool,
    ) -> Accepted:
        """Accept a sweep, durably, or return the one that the same request made before.

        `spec` and `lora` are what the trials have in common. Raises what `create_job` of the jobs
        does; fields of `spec` are then named as a job's are.
        """
        request = _request_sha256(sweep_id, spec, lora, asked)
        made = await self._jobs.made_before(tenant, request_id, request)
        if made is not None:
            return Accepted(made)
        tried = settings(asked)
        _check_said_once(spec, lora, asked)
        checked = await self._checked(tenant, spec, lora, asked)
        data = await self._jobs.data(tenant, spec)
        _check_validation(spec, data.training.record_count)
        trials = tuple(_trial(each, checked, lora) for each in tried)
        sweep = SweepSpec(asked=asked, trials=trials)
        job = Job(
            name=self._jobs.new_name(tenant, sweep_id, spec.adapter_name),
            spec=data.in_spec(checked).model_copy(update={"sweep": sweep}),
            state=JobState.QUEUED,
            create_time=await self._jobs.time(),
            sweep=SweepResults.begun(sweep),
        )
        return await self._jobs.accept(job, data, request_id, request, validate_only=validate_only)

    async def get(self, name: SweepName) -> Job:
        """Return a sweep; NotFound if there is none, also where a job of its own has the id."""
        with _none_found(name):
            job = await self._jobs.get_job(name.job_name)
        if job.spec.sweep is None:
            raise NotFound(name, reason="SWEEP_NOT_FOUND")
        return job

    async def list(
        self, tenant: TenantName, *, limit: int, after: tuple[datetime, str] | None
    ) -> tuple[list[Job], bool]:
        """Return up to `limit` sweeps, newest first, and whether more follow."""
        return await self._jobs.list_jobs(tenant, limit=limit, after=after, sweeps=True)

    async def cancel(self, name: SweepName) -> Job:
        """Ask for a sweep to be stopped; FailedPrecondition if it is too late."""
        return await self._jobs.cancel_job((await self.get(name)).name)

    async def _checked(
        self, tenant: TenantName, spec: JobSpec, lora: AskedLora, asked: AskedSweep
    ) -> JobSpec:
        """Hold what the trials have in common, and each rank, to the rules of a job."""
        ranks = asked.space.ranks
        for index, rank in enumerate(ranks):
            of_rank = lora.model_copy(update={"rank": rank})
            with _rank_named(index):
                checked = await self._jobs.checked(
                    tenant, spec.model_copy(update={"lora": of_rank.chosen()}), of_rank
                )
        return checked if ranks else await self._jobs.checked(tenant, spec, lora)


def _check_validation(spec: JobSpec, records: int) -> None:
    if spec.validation_dataset is not None or spec.validation_fraction is not None:
        return
    if records < _FEWEST_RECORDS:
        raise InvalidArgument(
            "sweep.spec.validation_dataset",
            f"trials are compared on validation data: name some, or give at least "
            f"{_FEWEST_RECORDS} training records, of which a tenth is held out; there are "
            f"{records}",
            reason="NO_VALIDATION_DATA",
            limit=_FEWEST_RECORDS,
        )


def _check_said_once(spec: JobSpec, lora: AskedLora, asked: AskedSweep) -> None:
    space, hyper = asked.space, spec.hyperparameters
    rates = space.learning_rates or space.learning_rate_range
    for axis, values, field, value in (
        ("ranks", space.ranks, "lora.rank", lora.rank),
        ("alphas", space.alphas, "lora.alpha", lora.alpha),
        ("learning_rates", rates, "hyperparameters.learning_rate", hyper.learning_rate),
        ("epochs", space.epochs, "hyperparameters.epochs", hyper.epochs),
    ):
        if values and value is not None:
            raise InvalidArgument(
                f"sweep.spec.{field}",
                f"is {value}, and sweep.space.{axis} has others: leave one out",
            )
        if values and spec.from_version and axis in {"ranks", "alphas"}:
            raise InvalidArgument(
                f"sweep.space.{axis}",
                "training on from a version keeps its rank and alpha",
                reason="LORA_MISMATCH",
            )


def _trial(setting: Setting, spec: JobSpec, lora: AskedLora) -> TrialSpec:
    rank, alpha = spec.lora.rank, spec.lora.alpha
    if setting.rank is not None:
        rank = setting.rank
        alpha = lora.model_copy(update={"rank": rank}).chosen().alpha
    return TrialSpec(
        rank=rank,
        alpha=alpha if setting.alpha is None else setting.alpha,
        learning_rate=setting.learning_rate,
        epochs=setting.epochs,
    )


def _request_sha256(sweep_id: str, spec: JobSpec, lora: AskedLora, asked: AskedSweep) -> str:
    said = [each.model_dump_json(exclude_defaults=True) for each in (lora, asked)]
    return hashlib.sha256("\n".join(["sweep", sweep_id, spec.sha256(), *said]).encode()).hexdigest()


@contextmanager
def _none_found(name: SweepName) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise NotFound(name, reason="SWEEP_NOT_FOUND") from error


@contextmanager
def _rank_named(index: int) -> Iterator[None]:
    """Name a rank that is refused by its place in the search space."""
    try:
        yield
    except InvalidArgument as error:
        if error.field != "job.spec.lora.rank":
            raise
        raise InvalidArgument(
            f"sweep.space.ranks[{index}]", error.description, reason=error.reason
        ) from error

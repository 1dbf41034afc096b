"""What callers may do with jobs: the use cases behind TuningService. Knows no gRPC and no SQL."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import NamedTuple, Protocol

from tailorbird.base_model import BaseModelFiles
from tailorbird.errors import AlreadyExists, InvalidArgument, NotFound
from tailorbird.manifest import AdapterManifest
from tailorbird.names import (
    AdapterName,
    DatasetName,
    JobName,
    SweepName,
    TenantName,
    VersionName,
)
from tailorbird.object_store import delete_folder
from tailorbird.registry import AdapterRegistry
from tailorbird.uninterrupted import uninterrupted
from trainer_svc.bases import BaseModels
from trainer_svc.jobs.base_check import check_formats, check_targets
from trainer_svc.jobs.data_check import Compared, check_data
from trainer_svc.jobs.deletion import check_ended
from trainer_svc.jobs.events import JobEvent, JobWarning
from trainer_svc.jobs.inherited import Inherited, SeenData
from trainer_svc.jobs.job_data import (
    JobData,
    Named,
    check_tenant,
    check_unchanged,
    in_use,
    read_data,
)
from trainer_svc.jobs.limits import TenantLimits
from trainer_svc.jobs.model import TERMINAL, AskedLora, Job, JobSpec, JobState, Left
from trainer_svc.jobs.parent import check_base, lora_of, read_parent
from trainer_svc.jobs.preflight import Checks, Preflight
from trainer_svc.jobs.trained_versions import TrainedPage, TrainedVersions
from trainer_svc.jobs.watching import Feed, Watched, Watches
from trainer_svc.served import ServingLimits, check_rank

_NO_LIMITS = TenantLimits()
_MOST_USERS = 3
"""Jobs told that keep a dataset from being deleted."""


class Jobs(Watched, Protocol):
    """The job store, as far as callers reach into it."""

    async def time(self) -> datetime: ...

    async def create(
        self, job: Job, request_id: str, request_sha256: str, warnings: Sequence[JobWarning]
    ) -> Job: ...

    async def check_queued(self, tenant: str) -> None: ...

    async def find_request(
        self, tenant: str, request_id: str, request_sha256: str
    ) -> Job | None: ...

    async def page(
        self,
        tenant: TenantName,
        *,
        limit: int,
        after: tuple[datetime, str] | None,
        state: JobState | None,
        adapter: AdapterName | None,
        sweeps: bool,
    ) -> list[Job]: ...

    async def users(self, dataset: DatasetName, limit: int) -> list[JobName | SweepName]: ...

    async def request_cancel(self, name: JobName) -> tuple[Job, Left | None]: ...

    async def request_pause(self, name: JobName) -> Job: ...

    async def request_resume(self, name: JobName) -> Job: ...

    async def delete(self, name: JobName) -> None: ...


class Accepted(NamedTuple):
    """A job, and what it was warned of when this call made it.

    `preflight` is there where nothing was made, but all was checked.
    """

    job: Job
    warnings: tuple[JobWarning, ...] = ()
    preflight: Preflight | None = None


class Datasets(Compared, Named, Protocol):
    """Where a job's data is looked up, compared and held."""

    def turn(self, *names: DatasetName) -> AbstractAsyncContextManager[None]: ...

    async def delete(self, name: DatasetName) -> None: ...


class Queue(Protocol):
    """The dispatcher, as far as callers reach it."""

    def wake(self) -> None: ...

    async def cancel(self, job: JobName) -> None: ...

    def cancelled(self, left: Left) -> None: ...

    async def pause(self, job: JobName) -> None: ...


class TuningService:
    """Creates, shows, watches, pauses and cancels jobs."""

    def __init__(
        self,
        jobs: Jobs,
        datasets: Datasets,
        feed: Feed,
        queue: Queue,
        registry: AdapterRegistry,
        bases: BaseModels,
        limits: ServingLimits,
        checks: Checks,
        tenant_limits: TenantLimits = _NO_LIMITS,
    ) -> None:
        self._jobs = jobs
        self._datasets = datasets
        self._watches = Watches(jobs, feed)
        self._queue = queue
        self._registry = registry
        self._trained = TrainedVersions(registry)
        self._inherited = Inherited(datasets, registry)
        self._bases = bases
        self._limits = limits
        self._checks = checks
        self._tenant_limits = tenant_limits

    async def offered(self) -> list[tuple[BaseModelFiles, list[int]]]:
        """Return the bases that jobs may name, the default first, and the ranks for each."""
        return await self._limits.offered()

    async def create_job(
        self,
        tenant: TenantName,
        spec: JobSpec,
        lora: AskedLora,
        *,
        job_id: str,
        request_id: str,
        validate_only: bool,
    ) -> Accepted:
        """Accept a job, durably, or return the one that the same request made before.

        `lora` is what the caller said of it; `spec.lora` has the defaults, which give way to what
        `spec.from_version` has. Raises InvalidArgument, NotFound (a dataset, the version),
        AlreadyExists, FailedPrecondition (serving has another base model, or can load none of its
        adapters; the data has more of a fault than `spec.data_limits`), DataCorrupt (the version, a
        dataset's digests), ResourceExhausted (too many jobs wait), StoreUnavailable; with
        `validate_only` also what the data would end the job with. FailedPrecondition is raised as
        well for chats on a base without a template (BASE_HAS_NO_CHAT_TEMPLATE).
        """
        request = _request_sha256(job_id, spec, lora)
        made = await self.made_before(tenant, request_id, request)
        if made is not None:
            return Accepted(made)
        spec = await self.checked(tenant, spec, lora)
        data = await self.data(tenant, spec)
        job = Job(
            name=self.new_name(tenant, job_id, spec.adapter_name),
            spec=data.in_spec(spec),
            state=JobState.QUEUED,
            create_time=await self._jobs.time(),
        )
        return await self.accept(job, data, request_id, request, validate_only=validate_only)

    async def made_before(
        self, tenant: TenantName, request_id: str, request_sha256: str
    ) -> Job | None:
        """Return the job that the same request made before; None for a request without an id.

        AlreadyExists if the id came with another request.
        """
        if not request_id:
            return None
        return await self._jobs.find_request(tenant.tenant, request_id, request_sha256)

    async def time(self) -> datetime:
        """Return the time by the job store's clock, which all trainers share."""
        return await self._jobs.time()

    def new_name(self, tenant: TenantName, job_id: str, adapter: AdapterName) -> JobName:
        """Return the name of a new job, with an id of its own where none was asked for."""
        return JobName(tenant.tenant, job_id or _new_id(adapter))

    async def accept(
        self,
        job: Job,
        data: JobData,
        request_id: str,
        request_sha256: str,
        *,
        validate_only: bool,
    ) -> Accepted:
        """Put a job whose specification is checked into the queue, if its data is within limits.

        With `validate_only` that is done which a worker does first, instead. Raises AlreadyExists,
        ResourceExhausted, what `check_formats` and `check_data` do, and then what Checks does.
        """
        base = self._bases.held(job.spec.base_model, job.spec.base_model_digest)
        if base is not None:
            check_formats(base, data.training, data.validation)
        seen = await self._seen(job.spec)
        warnings = await check_data(
            self._datasets, job.spec.data_limits, data.training, data.validation, seen
        )
        if validate_only:
            await self._check_new(job.name)
            await self._jobs.check_queued(job.name.tenant)
            found = await self._checks.check(job)
            return Accepted(job, (*warnings, *found.warnings), found)
        async with self._datasets.turn(*data.names):
            # While it was checked, somebody may have deleted it.
            await check_unchanged(self._datasets, data)
            creating = self._jobs.create(job, request_id, request_sha256, warnings)
            try:
                made = await uninterrupted(creating)
            finally:
                # What failed may have been done all the same.
                self._queue.wake()
        return Accepted(made, warnings if made == job else ())

    async def get_job(self, name: JobName) -> Job:
        """Return a job; NotFound if there is none."""
        return await self._jobs.get(name)

    async def list_jobs(
        self,
        tenant: TenantName,
        *,
        limit: int,
        after: tuple[datetime, str] | None,
        state: JobState | None = None,
        adapter: AdapterName | None = None,
        sweeps: bool = False,
    ) -> tuple[list[Job], bool]:
        """Return up to `limit` jobs, newest first, and whether more follow.

        `sweeps`: only those that carry one out.
        """
        found = await self._jobs.page(
            tenant, limit=limit + 1, after=after, state=state, adapter=adapter, sweeps=sweeps
        )
        return found[:limit], len(found) > limit

    async def cancel_job(self, name: JobName) -> Job:
        """Ask for a job to be stopped; FailedPrecondition if it is too late."""
        job, left = await self._jobs.request_cancel(name)
        if left is not None:
            self._queue.cancelled(left)
        elif job.state not in TERMINAL:
            await self._queue.cancel(name)
        return job

    async def pause_job(self, name: JobName) -> Job:
        """Ask for a job to be held back; FailedPrecondition if it is too late."""
        job = await self._jobs.request_pause(name)
        if job.pause_requested:
            await self._queue.pause(name)
        else:
            # Nobody else waits for its sake any more.
            self._queue.wake()
        return job

    async def resume_job(self, name: JobName) -> Job:
        """Let a paused job go on; FailedPrecondition if it has ended, ResourceExhausted."""
        try:
            return await self._jobs.request_resume(name)
        finally:
            # What failed may have been done all the same.
            self._queue.wake()

    async def delete_job(self, name: JobName) -> None:
        """Delete a job that has ended, with its history; the version that it published stays.

        Raises NotFound, FailedPrecondition (JOB_NOT_DELETABLE), StoreUnavailable: then the job is
        there still, and another call deletes the rest.
        """
        check_ended(name, (await self._jobs.get(name)).state)
        # Before the row: of a job that nobody knows nothing is collected.
        await delete_folder(self._registry.store, str(name))
        await self._jobs.delete(name)

    def watch_job(self, name: JobName, after_sequence: int) -> AsyncGenerator[JobEvent]:
        """Yield a job's events after a sequence, and end after the terminal one.

        What a later release has written into the history is passed over.
        Raises NotFound, InvalidArgument for a sequence the job has not reached, and
        ResourceExhausted (TOO_MANY_WATCHES).
        """
        return self._watches.events(name, after_sequence)

    async def checked(self, tenant: TenantName, spec: JobSpec, lora: AskedLora) -> JobSpec:
        """Return a specification with its base and LoRA decided; raises what `create_job` does."""
        base = self._bases.named(spec.base_model)
        if base is None:
            raise InvalidArgument(
                "job.spec.base_model",
                f"{spec.base_model!r} is not offered; this trainer has {self._bases.names}",
                reason="UNKNOWN_BASE_MODEL",
            )
        if spec.from_version:
            parent = await self._parent(tenant, spec.from_version)
            if not spec.base_model:
                base = self._bases.held("", parent.base_model_digest) or base
            check_base(parent, base.digest)
            ranks = await self._limits.ranks(base)
            spec = spec.model_copy(update={"lora": lora_of(parent, lora, ranks)})
        else:
            check_rank(spec.lora.rank, await self._limits.ranks(base))
            check_targets(base, spec.lora.target_modules)
        length = spec.hyperparameters.max_sequence_length
        if length is not None and length > base.max_sequence_length:
            raise InvalidArgument(
                "job.spec.hyperparameters.max_sequence_length",
                f"{length} is more than the base model's {base.max_sequence_length}",
            )
        check_tenant("adapter", spec.adapter_name, tenant)
        self._tenant_limits.check_priority(tenant.tenant, spec.priority)
        return spec.model_copy(update={"base_model": base.name, "base_model_digest": base.digest})

    async def data(self, tenant: TenantName, spec: JobSpec) -> JobData:
        """Return what a job is trained and validated on; raises what `create_job` does."""
        return await read_data(self._datasets, tenant, spec)

    async def delete_dataset(self, name: DatasetName) -> None:
        """Delete a dataset; FailedPrecondition (DATASET_IN_USE) while a job needs it, NotFound."""
        async with self._datasets.turn(name):
            if users := await self._jobs.users(name, _MOST_USERS + 1):
                raise in_use(name, users[:_MOST_USERS], more=len(users) > _MOST_USERS)
            await uninterrupted(self._datasets.delete(name))

    async def trained_versions(
        self, tenant: TenantName, sha256s: Collection[str], limit: int, after: str
    ) -> TrainedPage:
        """Return the versions that have seen datasets; see `TrainedVersions.page`."""
        return await self._trained.page(tenant, sha256s, limit, after)

    async def _seen(self, spec: JobSpec) -> list[SeenData]:
        """Return what a job's validation data is compared with besides its training data."""
        if not spec.from_version or spec.validation_dataset is None:
            return []
        return await self._inherited.of(VersionName.parse(spec.from_version))

    async def _parent(self, tenant: TenantName, version: str) -> AdapterManifest:
        return await read_parent(self._registry, tenant, VersionName.parse(version))

    async def _check_new(self, name: JobName) -> None:
        try:
            await self._jobs.get(name)
        except NotFound:
            return
        raise AlreadyExists(f"{name} exists", reason="JOB_EXISTS", name=name)


def _request_sha256(job_id: str, spec: JobSpec, lora: AskedLora) -> str:
    asked = f"{job_id}\n{spec.sha256()}"
    if spec.from_version:
        # What is left out is the version's then, and not the default that `spec` has in its place.
        asked += f"\n{lora.model_dump_json(exclude_defaults=True)}"
    return hashlib.sha256(asked.encode()).hexdigest()


def _new_id(adapter: AdapterName) -> str:
    return f"{adapter.adapter[:50]}-{secrets.token_hex(4)}"

"""TuningService at the gRPC edge: a method converts, calls once, converts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import grpc

from tailorbird import __version__
from tailorbird.errors import InvalidArgument
from tailorbird.metadata import WATCHING
from tailorbird.names import (
    AdapterName,
    JobName,
    SweepName,
    TenantName,
    check_id,
)
from tailorbird.rpc.auth import current_caller
from tailorbird.rpc.endless import EndlessCalls
from tailorbird.rpc.paging import page_size, page_token
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from trainer_svc.api import convert
from trainer_svc.api.convert_datasets import (
    warnings_to_proto,
)
from trainer_svc.api.convert_events import event_to_proto
from trainer_svc.api.convert_preflight import preflight_to_proto
from trainer_svc.api.convert_sweeps import asked_from_proto, of_sweep, sweep_to_proto
from trainer_svc.api.data_servicer import DataServicer
from trainer_svc.api.text import check_text
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.feedback.service import FeedbackService
from trainer_svc.jobs.service import TuningService
from trainer_svc.jobs.sweep_service import SweepService
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.protocol import Ready

_Context = grpc.aio.ServicerContext[Any, Any]
_MAX_REQUEST_ID = 128
_MOST_SWEEPS = 100
"""On a page: a thousand of 32 trials each are more than a client's 4 MiB."""


class TuningServicer(DataServicer):
    """Checks the caller's tenants, and converts."""

    def __init__(
        self,
        service: TuningService,
        sweeps: SweepService,
        datasets: DatasetStore,
        feedback: FeedbackService,
        metrics: TrainerMetrics,
        endless: EndlessCalls,
        *,
        max_dataset_bytes: int,
        max_record_bytes: int,
        workers: int,
        jobs_per_worker: int,
        device: str,
        ready: Mapping[str, Ready],
    ) -> None:
        super().__init__(datasets, feedback, service, metrics)
        self._sweeps = sweeps
        self._endless = endless
        self._max_dataset_bytes = max_dataset_bytes
        self._max_record_bytes = max_record_bytes
        self._workers = workers
        self._jobs_per_worker = jobs_per_worker
        self._device = device
        self._ready = ready

    async def CreateJob(
        self, request: pb.CreateJobRequest, context: _Context
    ) -> pb.CreateJobResponse:
        """See tuning_service.proto."""
        tenant = TenantName.parse(request.parent)
        current_caller().check(tenant)
        check_ids("job_id", request.job_id, request.request_id)
        accepted = await self._service.create_job(
            tenant,
            convert.spec_from_proto(request.job.spec),
            convert.lora_from_proto(request.job.spec.lora),
            job_id=request.job_id,
            request_id=request.request_id,
            validate_only=request.validate_only,
        )
        return pb.CreateJobResponse(
            job=convert.job_to_proto(accepted.job),
            warnings=warnings_to_proto(accepted.warnings),
            preflight=preflight_to_proto(accepted.preflight),
        )

    async def GetJob(self, request: pb.GetJobRequest, context: _Context) -> pb.GetJobResponse:
        """See tuning_service.proto."""
        name = JobName.parse(request.name)
        current_caller().check(name)
        return pb.GetJobResponse(job=convert.job_to_proto(await self._service.get_job(name)))

    async def ListJobs(self, request: pb.ListJobsRequest, context: _Context) -> pb.ListJobsResponse:
        """See tuning_service.proto."""
        tenant = TenantName.parse(request.parent)
        current_caller().check(tenant)
        jobs, more = await self._service.list_jobs(
            tenant,
            limit=page_size(request.page_size),
            after=convert.position_from_token(tenant, request.page_token),
            state=convert.state_from_proto(request.state),
            adapter=AdapterName.parse(request.adapter, "adapter") if request.adapter else None,
        )
        return pb.ListJobsResponse(
            jobs=[convert.job_to_proto(job) for job in jobs],
            next_page_token=page_token(tenant, convert.position_of(jobs[-1])) if more else "",
        )

    async def CancelJob(
        self, request: pb.CancelJobRequest, context: _Context
    ) -> pb.CancelJobResponse:
        """See tuning_service.proto."""
        name = JobName.parse(request.name)
        current_caller().check(name)
        return pb.CancelJobResponse(job=convert.job_to_proto(await self._service.cancel_job(name)))

    async def PauseJob(self, request: pb.PauseJobRequest, context: _Context) -> pb.PauseJobResponse:
        """See tuning_service.proto."""
        name = JobName.parse(request.name)
        current_caller().check(name)
        return pb.PauseJobResponse(job=convert.job_to_proto(await self._service.pause_job(name)))

    async def ResumeJob(
        self, request: pb.ResumeJobRequest, context: _Context
    ) -> pb.ResumeJobResponse:
        """See tuning_service.proto."""
        name = JobName.parse(request.name)
        current_caller().check(name)
        return pb.ResumeJobResponse(job=convert.job_to_proto(await self._service.resume_job(name)))

    async def DeleteJob(
        self, request: pb.DeleteJobRequest, context: _Context
    ) -> pb.DeleteJobResponse:
        """See tuning_service.proto."""
        name = JobName.parse(request.name)
        current_caller().check(name)
        await self._service.delete_job(name)
        return pb.DeleteJobResponse()

    async def WatchJob(  # type: ignore[override]  # gRPC takes a coroutine that writes, too
        self, request: pb.WatchJobRequest, context: _Context
    ) -> None:
        """See tuning_service.proto. Writes itself, so that a stop ends a write nobody reads."""
        name = JobName.parse(request.name)
        current_caller().check(name)
        async with (
            self._endless.call(),
            aclosing(self._service.watch_job(name, request.after_sequence)) as events,
        ):
            # A watcher knows by this that it is heard, however long no event comes. It is heard
            # once the job store answers: whoever hears begins the next wait anew.
            await self._service.get_job(name)
            await context.send_initial_metadata(((WATCHING, "1"),))
            async for event in events:
                await context.write(pb.WatchJobResponse(event=event_to_proto(event)))

    async def CreateSweep(
        self, request: pb.CreateSweepRequest, context: _Context
    ) -> pb.CreateSweepResponse:
        """See tuning_service.proto."""
        tenant = TenantName.parse(request.parent)
        current_caller().check(tenant)
        check_ids("sweep_id", request.sweep_id, request.request_id)
        with of_sweep():
            accepted = await self._sweeps.create(
                tenant,
                convert.spec_from_proto(request.sweep.spec),
                convert.lora_from_proto(request.sweep.spec.lora),
                asked_from_proto(request.sweep),
                sweep_id=request.sweep_id,
                request_id=request.request_id,
                validate_only=request.validate_only,
            )
        return pb.CreateSweepResponse(
            sweep=sweep_to_proto(accepted.job),
            warnings=warnings_to_proto(accepted.warnings),
            preflight=preflight_to_proto(accepted.preflight),
        )

    async def GetSweep(self, request: pb.GetSweepRequest, context: _Context) -> pb.GetSweepResponse:
        """See tuning_service.proto."""
        name = SweepName.parse(request.name)
        current_caller().check(name)
        return pb.GetSweepResponse(sweep=sweep_to_proto(await self._sweeps.get(name)))

    async def ListSweeps(
        self, request: pb.ListSweepsRequest, context: _Context
    ) -> pb.ListSweepsResponse:
        """See tuning_service.proto."""
        tenant = TenantName.parse(request.parent)
        current_caller().check(tenant)
        jobs, more = await self._sweeps.list(
            tenant,
            limit=page_size(request.page_size, _MOST_SWEEPS),
            after=convert.position_from_token(tenant, request.page_token),
        )
        return pb.ListSweepsResponse(
            sweeps=[sweep_to_proto(job) for job in jobs],
            next_page_token=page_token(tenant, convert.position_of(jobs[-1])) if more else "",
        )

    async def CancelSweep(
        self, request: pb.CancelSweepRequest, context: _Context
    ) -> pb.CancelSweepResponse:
        """See tuning_service.proto."""
        name = SweepName.parse(request.name)
        current_caller().check(name)
        return pb.CancelSweepResponse(sweep=sweep_to_proto(await self._sweeps.cancel(name)))

    async def GetTrainerInfo(
        self, request: pb.GetTrainerInfoRequest, context: _Context
    ) -> pb.GetTrainerInfoResponse:
        """See tuning_service.proto."""
        offered = await self._service.offered()
        return pb.GetTrainerInfoResponse(
            base_models=[
                convert.base_to_proto(base, ranks, self._ready.get(base.digest))
                for base, ranks in offered
            ],
            ranks=offered[0][1],
            max_dataset_bytes=self._max_dataset_bytes,
            max_record_bytes=self._max_record_bytes,
            workers=self._workers,
            jobs_per_worker=self._jobs_per_worker,
            device=self._device,
            service_version=__version__,
        )


def check_ids(field: str, chosen: str, request_id: str) -> None:
    """Hold the id that a caller chose, if it did, and the request's to their rules."""
    if chosen:
        check_id(field, chosen)
    if len(request_id) > _MAX_REQUEST_ID:
        raise InvalidArgument("request_id", f"longer than {_MAX_REQUEST_ID} characters")
    check_text("request_id", request_id)

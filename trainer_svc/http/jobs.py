"""/v1/fine_tuning/jobs: jobs, their events and their checkpoints."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tailorbird.http.body import read_json
from trainer_svc.api.convert import lora_from_proto, spec_from_proto
from trainer_svc.api.servicer import check_ids
from trainer_svc.bases import BaseModels
from trainer_svc.http.convert_events import CHECKPOINT, EVENT, checkpoint_json, event_json
from trainer_svc.http.convert_jobs import job_json
from trainer_svc.http.convert_request import Asked
from trainer_svc.http.ids import caller_tenant, job_in_path, job_of, sequence_of
from trainer_svc.http.pages import listed, page_of
from trainer_svc.http.refusals import told_as
from trainer_svc.jobs.history import History
from trainer_svc.jobs.model import Job
from trainer_svc.jobs.service import TuningService

_USUAL_PAGE = 20
_MAX_BODY_BYTES = 2**18
_PATH = "/v1/fine_tuning/jobs"


class FineTuningJobs:
    """Creates, shows and stops jobs, by the use cases that gRPC's servicer calls."""

    def __init__(self, service: TuningService, history: History, bases: BaseModels) -> None:
        self._service = service
        self._history = history
        self._bases = bases

    def routes(self) -> list[Route]:
        """Return what answers under /v1/fine_tuning/jobs."""
        one = f"{_PATH}/{{job_id}}"
        return [
            Route(_PATH, self.create, methods=["POST"]),
            Route(_PATH, self.list, methods=["GET"]),
            Route(one, self.retrieve, methods=["GET"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/pause", self.pause, methods=["POST"]),
            Route(f"{one}/resume", self.resume, methods=["POST"]),
            Route(f"{one}/events", self.events, methods=["GET"]),
            Route(f"{one}/checkpoints", self.checkpoints, methods=["GET"]),
        ]

    async def create(self, request: Request) -> Response:
        """Accept a job; with an Idempotency-Key the same request again returns the same job."""
        tenant = caller_tenant(request)
        asked = Asked(await read_json(request, _MAX_BODY_BYTES), tenant, self._bases)
        key = request.headers.get("Idempotency-Key", "")
        with told_as(asked.names):
            check_ids("job_id", "", key)
            accepted = await self._service.create_job(
                tenant,
                spec_from_proto(asked.spec),
                lora_from_proto(asked.spec.lora),
                job_id="",
                request_id=key,
                validate_only=False,
            )
        return self._shown(accepted.job)

    async def list(self, request: Request) -> Response:
        """Return jobs, newest first."""
        tenant = caller_tenant(request)
        page = page_of(request, _USUAL_PAGE)
        position = None
        if page.after:
            last = await self._service.get_job(job_of(tenant, page.after, "after"))
            position = last.create_time, last.name.job
        jobs, more = await self._service.list_jobs(tenant, limit=page.limit, after=position)
        return listed([job_json(job, self._bases) for job in jobs], more=more)

    async def retrieve(self, request: Request) -> Response:
        """Return one job."""
        return self._shown(await self._service.get_job(job_in_path(request)))

    async def cancel(self, request: Request) -> Response:
        """Ask for a job to be stopped."""
        return self._shown(await self._service.cancel_job(job_in_path(request)))

    async def pause(self, request: Request) -> Response:
        """Ask for a job to be held back."""
        return self._shown(await self._service.pause_job(job_in_path(request)))

    async def resume(self, request: Request) -> Response:
        """Let a paused job go on."""
        return self._shown(await self._service.resume_job(job_in_path(request)))

    async def events(self, request: Request) -> Response:
        """Return a job's events, newest first."""
        name = job_in_path(request)
        page = page_of(request, _USUAL_PAGE)
        before = sequence_of(EVENT, name, page.after) if page.after else None
        found = await self._history.page(name, before, page.limit)
        more = bool(found) and found[-1].sequence > 1
        return listed([event_json(name, event) for event in found], more=more)

    async def checkpoints(self, request: Request) -> Response:
        """Return a job's checkpoints, newest first."""
        name = job_in_path(request)
        page = page_of(request, _USUAL_PAGE)
        before = sequence_of(CHECKPOINT, name, page.after) if page.after else None
        found = await self._history.checkpoints(name)
        if before is not None:
            found = [each for each in found if each.sequence < before]
        shown = [checkpoint_json(name, each) for each in found[: page.limit]]
        return listed(shown, more=len(found) > page.limit)

    def _shown(self, job: Job) -> Response:
        return JSONResponse(job_json(job, self._bases))

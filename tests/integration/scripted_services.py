"""Both services' APIs on one real socket, answering what a test scripts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from grpc_status import rpc_status

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as adapters_grpc
from tailorbird.adapters.v1 import judgement_pb2
from tailorbird.errors import NotFound, TailorbirdError, Unavailable
from tailorbird.metadata import WATCHING
from tailorbird.rpc.status import to_status
from tailorbird.serving.v1 import inference_service_pb2 as serving_pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as serving_grpc
from tailorbird.tuning.v1 import dataset_pb2, feedback_pb2, job_pb2, preflight_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning_pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as tuning_grpc

Context = Any
ADAPTER = "tenants/acme/adapters/support"
VERSIONS = [f"{ADAPTER}/versions/2026112{day}T100000-job-1" for day in (2, 1)]
SHORT_ANSWERS = dataset_pb2.DataWarning(reason="SHORT_ANSWERS", message="1 of 1")
FEEDBACK = f"{ADAPTER}/feedback/20261123-{'0' * 32}"
JUDGEMENT = judgement_pb2.Judgement(
    records=20,
    primary_metric="exact_match",
    decision=judgement_pb2.Judgement.Decision(reason="SLICE_WORSE", message="worse in German"),
)


class Script:
    """What the services answer, and what they were asked."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []
        self.requests: list[Any] = []
        self.error: TailorbirdError | None = None
        self.errors: list[TailorbirdError] = []
        """What the next calls fail with, one each."""
        self.events: list[job_pb2.JobEvent] = []
        self.breaks_after: list[int] = []
        """Sequences after which WatchJob breaks off, each once."""
        self.broken_as: tuple[grpc.StatusCode, str] | None = None
        """How WatchJob breaks off, if not as UNAVAILABLE."""
        self.quiet_breaks = 0
        """So many WatchJobs are heard, and break off without an event."""
        self.before_quiet_break: Callable[[], object] = lambda: None
        self.chunk_sizes: list[int] = []
        self.received = 0
        self.files: dict[str, bytes] = {}
        """What ImportAdapter was sent."""
        self.job = job_pb2.Job(name="tenants/acme/jobs/one", state=job_pb2.JOB_STATE_RUNNING)
        self.warnings: list[dataset_pb2.DataWarning] = []
        """What CreateJob and CreateSweep say of the data."""
        self.report: dataset_pb2.DatasetReport | None = None
        """What GetDataset and UploadDataset say of it."""
        self.preflight = preflight_pb2.Preflight()
        """What is said of a job that is checked only."""
        self.sweep = sweep_pb2.Sweep(
            name="tenants/acme/sweeps/rates", job="tenants/acme/jobs/rates"
        )
        self.feedback = feedback_pb2.Feedback(
            name=FEEDBACK,
            version=VERSIONS[0],
            chat=serving_pb.Chat(
                messages=[serving_pb.Message(content="Where is\nmy \x1b[2J order?")]
            ),
            answer=serving_pb.FeedbackAnswer(text="Here. " * 20),
            correction=serving_pb.FeedbackAnswer(
                tool_calls=[serving_pb.ToolCall(name="find", arguments_json='{"order": 1}')]
            ),
            rating=serving_pb.RATING_BAD,
        )
        self.engine: tuning_pb.Engine | None = None
        """What GetTrainerInfo says of the workers."""
        self.text = ["Good ", "morning."]
        self.cancelled = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def heard(self, request: Any, context: Context) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.errors:
            fail(context, self.errors.pop(0))
        if self.error is not None:
            fail(context, self.error)


def fail(context: Context, error: TailorbirdError) -> None:
    context.abort_with_status(rpc_status.to_status(to_status(error)))


def _version(name: str) -> adapters_pb.Version:
    """The newer one was trained on from the older."""
    parent = VERSIONS[1] if name == VERSIONS[0] else ""
    lineage = adapters_pb.Version.Lineage(parent_version=parent, from_version=parent)
    return adapters_pb.Version(name=name, rank=16, lineage=lineage)


def _found(
    mode: dataset_pb2.PersonalDataMode.ValueType,
) -> dataset_pb2.PersonalDataReport | None:
    """What a trainer says of a file that has an address twice."""
    if mode == dataset_pb2.PERSONAL_DATA_MODE_UNSPECIFIED:
        return None
    kinds = [dataset_pb2.PersonalDataKind(kind="email", count=2, lines=[3, 3])]
    if mode == dataset_pb2.PERSONAL_DATA_MODE_SCAN:
        kinds = []
    return dataset_pb2.PersonalDataReport(mode=mode, record_count=len(kinds), kinds=kinds)


class Tuning(tuning_grpc.TuningServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def UploadDataset(
        self, request_iterator: Iterator[tuning_pb.UploadDatasetRequest], context: Context
    ) -> tuning_pb.UploadDatasetResponse:
        header = next(request_iterator).header
        self.script.heard(header, context)
        for request in request_iterator:
            self.script.chunk_sizes.append(len(request.chunk))
            self.script.received += len(request.chunk)
        return tuning_pb.UploadDatasetResponse(
            dataset=dataset_pb2.Dataset(
                name=f"{header.parent}/datasets/{header.dataset_id}",
                format=dataset_pb2.DATASET_FORMAT_CHAT,
                record_count=3,
                size_bytes=self.script.received,
                report=self.script.report,
                personal_data=_found(header.personal_data),
            )
        )

    def GetDataset(
        self, request: tuning_pb.GetDatasetRequest, context: Context
    ) -> tuning_pb.GetDatasetResponse:
        self.script.heard(request, context)
        if request.name.endswith("/gone"):
            context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        dataset = dataset_pb2.Dataset(name=request.name, report=self.script.report)
        return tuning_pb.GetDatasetResponse(dataset=dataset)

    def GetDatasetReport(
        self, request: tuning_pb.GetDatasetReportRequest, context: Context
    ) -> tuning_pb.GetDatasetReportResponse:
        self.script.heard(request, context)
        return tuning_pb.GetDatasetReportResponse(
            content_type="text/html; charset=utf-8", content="<p>größer</p>".encode()
        )

    def ImportDataset(
        self, request: tuning_pb.ImportDatasetRequest, context: Context
    ) -> tuning_pb.ImportDatasetResponse:
        self.script.heard(request, context)
        return tuning_pb.ImportDatasetResponse()

    def ListDatasets(
        self, request: tuning_pb.ListDatasetsRequest, context: Context
    ) -> tuning_pb.ListDatasetsResponse:
        self.script.heard(request, context)
        return tuning_pb.ListDatasetsResponse()

    def DeleteDataset(
        self, request: tuning_pb.DeleteDatasetRequest, context: Context
    ) -> tuning_pb.DeleteDatasetResponse:
        self.script.heard(request, context)
        return tuning_pb.DeleteDatasetResponse()

    def FindRecord(
        self, request: tuning_pb.FindRecordRequest, context: Context
    ) -> tuning_pb.FindRecordResponse:
        self.script.heard(request, context)
        return tuning_pb.FindRecordResponse()

    def ListTrainedVersions(
        self, request: tuning_pb.ListTrainedVersionsRequest, context: Context
    ) -> tuning_pb.ListTrainedVersionsResponse:
        self.script.heard(request, context)
        return tuning_pb.ListTrainedVersionsResponse()

    def CreateJob(
        self, request: tuning_pb.CreateJobRequest, context: Context
    ) -> tuning_pb.CreateJobResponse:
        self.script.heard(request, context)
        self.script.job.spec.CopyFrom(request.job.spec)
        return tuning_pb.CreateJobResponse(
            job=self.script.job,
            warnings=self.script.warnings,
            preflight=self.script.preflight if request.validate_only else None,
        )

    def GetJob(
        self, request: tuning_pb.GetJobRequest, context: Context
    ) -> tuning_pb.GetJobResponse:
        self.script.heard(request, context)
        if request.name.endswith("/done"):
            done = job_pb2.JOB_STATE_SUCCEEDED
            job = job_pb2.Job(name=request.name, state=done, version=VERSIONS[0])
            return tuning_pb.GetJobResponse(job=job)
        return tuning_pb.GetJobResponse(job=self.script.job)

    def ListJobs(
        self, request: tuning_pb.ListJobsRequest, context: Context
    ) -> tuning_pb.ListJobsResponse:
        self.script.heard(request, context)
        page = int(request.page_token or 0)
        return tuning_pb.ListJobsResponse(
            jobs=[
                job_pb2.Job(name=f"{request.parent}/jobs/{page}-{one}", state=request.state)
                for one in "ab"
            ],
            next_page_token=str(page + 1) if page < 2 else "",
        )

    def CancelJob(
        self, request: tuning_pb.CancelJobRequest, context: Context
    ) -> tuning_pb.CancelJobResponse:
        self.script.heard(request, context)
        return tuning_pb.CancelJobResponse(job=self.script.job)

    def DeleteJob(
        self, request: tuning_pb.DeleteJobRequest, context: Context
    ) -> tuning_pb.DeleteJobResponse:
        self.script.heard(request, context)
        return tuning_pb.DeleteJobResponse()

    def PauseJob(
        self, request: tuning_pb.PauseJobRequest, context: Context
    ) -> tuning_pb.PauseJobResponse:
        self.script.heard(request, context)
        return tuning_pb.PauseJobResponse(job=self.script.job)

    def ResumeJob(
        self, request: tuning_pb.ResumeJobRequest, context: Context
    ) -> tuning_pb.ResumeJobResponse:
        self.script.heard(request, context)
        return tuning_pb.ResumeJobResponse(job=self.script.job)

    def CreateSweep(
        self, request: tuning_pb.CreateSweepRequest, context: Context
    ) -> tuning_pb.CreateSweepResponse:
        self.script.heard(request, context)
        return tuning_pb.CreateSweepResponse(
            sweep=self.script.sweep,
            warnings=self.script.warnings,
            preflight=self.script.preflight if request.validate_only else None,
        )

    def GetSweep(
        self, request: tuning_pb.GetSweepRequest, context: Context
    ) -> tuning_pb.GetSweepResponse:
        self.script.heard(request, context)
        return tuning_pb.GetSweepResponse(sweep=self.script.sweep)

    def ListSweeps(
        self, request: tuning_pb.ListSweepsRequest, context: Context
    ) -> tuning_pb.ListSweepsResponse:
        """Two pages of one sweep."""
        self.script.heard(request, context)
        token = "" if request.page_token else "more"
        return tuning_pb.ListSweepsResponse(sweeps=[self.script.sweep], next_page_token=token)

    def CancelSweep(
        self, request: tuning_pb.CancelSweepRequest, context: Context
    ) -> tuning_pb.CancelSweepResponse:
        self.script.heard(request, context)
        return tuning_pb.CancelSweepResponse(sweep=self.script.sweep)

    def WatchJob(
        self, request: tuning_pb.WatchJobRequest, context: Context
    ) -> Iterator[tuning_pb.WatchJobResponse]:
        self.script.heard(request, context)
        if self.script.quiet_breaks:
            self.script.quiet_breaks -= 1
            context.send_initial_metadata(((WATCHING, "1"),))
            self.script.before_quiet_break()
            fail(context, Unavailable("the trainer stops"))
        for event in self.script.events:
            if event.sequence <= request.after_sequence:
                continue
            yield tuning_pb.WatchJobResponse(event=event)
            if event.sequence in self.script.breaks_after:
                self.script.breaks_after.remove(event.sequence)
                if self.script.broken_as is not None:
                    context.abort(*self.script.broken_as)
                fail(context, Unavailable("the trainer stops"))

    def ListFeedback(
        self, request: feedback_pb2.ListFeedbackRequest, context: Context
    ) -> feedback_pb2.ListFeedbackResponse:
        """Two pages of one record; the second has met one that cannot be read."""
        self.script.heard(request, context)
        if request.page_token:
            return feedback_pb2.ListFeedbackResponse(
                feedback=[self.script.feedback], unreadable=[f"{FEEDBACK[:-1]}1"]
            )
        return feedback_pb2.ListFeedbackResponse(
            feedback=[self.script.feedback], next_page_token="more"
        )

    def ImportFeedback(
        self, request: feedback_pb2.ImportFeedbackRequest, context: Context
    ) -> feedback_pb2.ImportFeedbackResponse:
        self.script.heard(request, context)
        return feedback_pb2.ImportFeedbackResponse(
            dataset=dataset_pb2.Dataset(
                name=f"{request.parent}/datasets/{request.dataset_id}",
                report=dataset_pb2.DatasetReport(warnings=[SHORT_ANSWERS]),
            ),
            read_count=3,
            imported_count=1,
            other_count=1,
            unusable=[feedback_pb2.UnusableFeedback(name=FEEDBACK, problem="messages[0]: empty")],
            unusable_count=1,
        )

    def DeleteFeedback(
        self, request: feedback_pb2.DeleteFeedbackRequest, context: Context
    ) -> feedback_pb2.DeleteFeedbackResponse:
        self.script.heard(request, context)
        return feedback_pb2.DeleteFeedbackResponse()

    def GetTrainerInfo(
        self, request: tuning_pb.GetTrainerInfoRequest, context: Context
    ) -> tuning_pb.GetTrainerInfoResponse:
        self.script.heard(request, context)
        base = tuning_pb.BaseModel(
            name="demo", digest="sha256:00", max_sequence_length=512, engine=self.script.engine
        )
        return tuning_pb.GetTrainerInfoResponse(
            base_models=[base],
            ranks=[8, 16],
            workers=1,
            device="cpu",
        )


class Inference(serving_grpc.InferenceServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def Generate(
        self, request: serving_pb.GenerateRequest, context: Context
    ) -> serving_pb.GenerateResponse:
        self.script.heard(request, context)
        others = [serving_pb.Completion(text="Good night.")] * (request.sampling.n - 1)
        return serving_pb.GenerateResponse(
            text="".join(self.script.text), version=VERSIONS[0], others=others
        )

    def StreamGenerate(
        self, request: serving_pb.StreamGenerateRequest, context: Context
    ) -> Iterator[serving_pb.StreamGenerateResponse]:
        self.script.heard(request, context)
        context.add_callback(self.script.cancelled.set)
        version = VERSIONS[0] if request.request.adapter else ""
        for text in self.script.text:
            token = serving_pb.TokenLogprob(text=text, logprob=-0.5)
            logprobs = [serving_pb.TokenLogprobs(token=token, top=[token])]
            yield serving_pb.StreamGenerateResponse(
                text=text,
                version=version,
                logprobs=logprobs if request.request.sampling.HasField("logprobs") else [],
                token_ids=[len(text)] if request.request.sampling.return_token_ids else [],
            )
            self.script.go_on.wait(30)
        yield serving_pb.StreamGenerateResponse(
            finish_reason=serving_pb.FINISH_REASON_STOP,
            usage=serving_pb.Usage(prompt_tokens=5, completion_tokens=2),
        )

    def RecordFeedback(
        self, request: serving_pb.RecordFeedbackRequest, context: Context
    ) -> serving_pb.RecordFeedbackResponse:
        self.script.heard(request, context)
        return serving_pb.RecordFeedbackResponse(name=FEEDBACK, redactions={"email": 2})

    def GetServerInfo(
        self, request: serving_pb.GetServerInfoRequest, context: Context
    ) -> serving_pb.GetServerInfoResponse:
        self.script.heard(request, context)
        return serving_pb.GetServerInfoResponse(base_model="demo", adapter_slots=8)


class Adapters(adapters_grpc.AdapterServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script
        self.routed = 1

    def _adapter(self) -> adapters_pb.Adapter:
        return adapters_pb.Adapter(name=ADAPTER, route=self._route("publish"))

    def _route(self, reason: str) -> adapters_pb.Route:
        return adapters_pb.Route(
            generation=3, version=VERSIONS[self.routed], reason=reason, actor="billing"
        )

    def ListAdapters(
        self, request: adapters_pb.ListAdaptersRequest, context: Context
    ) -> adapters_pb.ListAdaptersResponse:
        self.script.heard(request, context)
        return adapters_pb.ListAdaptersResponse(adapters=[self._adapter()])

    def GetAdapter(
        self, request: adapters_pb.GetAdapterRequest, context: Context
    ) -> adapters_pb.GetAdapterResponse:
        self.script.heard(request, context)
        if request.name != ADAPTER:
            fail(context, NotFound(request.name))
        return adapters_pb.GetAdapterResponse(adapter=self._adapter())

    def ListVersions(
        self, request: adapters_pb.ListVersionsRequest, context: Context
    ) -> adapters_pb.ListVersionsResponse:
        self.script.heard(request, context)
        page = int(request.page_token or 0)
        return adapters_pb.ListVersionsResponse(
            versions=[_version(VERSIONS[page])],
            next_page_token="1" if page == 0 else "",
        )

    def GetVersion(
        self, request: adapters_pb.GetVersionRequest, context: Context
    ) -> adapters_pb.GetVersionResponse:
        self.script.heard(request, context)
        version = _version(request.name)
        if request.name == VERSIONS[0]:
            version.files.add(path="report.html")
            version.judgement.CopyFrom(JUDGEMENT)
        return adapters_pb.GetVersionResponse(version=version)

    def GetVersionReport(
        self, request: adapters_pb.GetVersionReportRequest, context: Context
    ) -> adapters_pb.GetVersionReportResponse:
        self.script.heard(request, context)
        as_json = request.format == adapters_pb.GetVersionReportRequest.FORMAT_JSON
        return adapters_pb.GetVersionReportResponse(
            content_type="application/json" if as_json else "text/html; charset=utf-8",
            content=b'{"best_step": 7}' if as_json else b"<!DOCTYPE html><p>report</p>",
        )

    def Promote(
        self, request: adapters_pb.PromoteRequest, context: Context
    ) -> adapters_pb.PromoteResponse:
        self.script.heard(request, context)
        self.routed = VERSIONS.index(request.name)
        return adapters_pb.PromoteResponse(route=self._route("promote"))

    def Rollback(
        self, request: adapters_pb.RollbackRequest, context: Context
    ) -> adapters_pb.RollbackResponse:
        self.script.heard(request, context)
        self.routed = VERSIONS.index(request.to_version) if request.to_version else 1
        return adapters_pb.RollbackResponse(route=self._route("rollback"))

    def SetRoute(
        self, request: adapters_pb.SetRouteRequest, context: Context
    ) -> adapters_pb.SetRouteResponse:
        self.script.heard(request, context)
        route = self._route("set")
        route.versions.extend(request.versions)
        return adapters_pb.SetRouteResponse(route=route)

    def WarmVersion(
        self, request: adapters_pb.WarmVersionRequest, context: Context
    ) -> adapters_pb.WarmVersionResponse:
        self.script.heard(request, context)
        held = resident(request.name, pinned=request.pin)
        return adapters_pb.WarmVersionResponse(resident=held)

    def DeleteVersion(
        self, request: adapters_pb.DeleteVersionRequest, context: Context
    ) -> adapters_pb.DeleteVersionResponse:
        self.script.heard(request, context)
        version = adapters_pb.Version(name=request.name)
        version.delete_time.FromJsonString("2026-11-21T10:00:00Z")
        return adapters_pb.DeleteVersionResponse(version=version)

    def ImportAdapter(
        self, request_iterator: Iterator[adapters_pb.ImportAdapterRequest], context: Context
    ) -> adapters_pb.ImportAdapterResponse:
        self.script.heard(next(request_iterator), context)
        for request in request_iterator:
            path, data = request.chunk.path, request.chunk.data
            self.script.files[path] = self.script.files.get(path, b"") + data
        version = adapters_pb.Version(name=VERSIONS[0], rank=8)
        return adapters_pb.ImportAdapterResponse(version=version)

    def ListResidency(
        self, request: adapters_pb.ListResidencyRequest, context: Context
    ) -> adapters_pb.ListResidencyResponse:
        self.script.heard(request, context)
        page = int(request.page_token or 0)
        refusal = adapters_pb.Refusal(reason="NOT_FINITE", message="a weight is not finite")
        return adapters_pb.ListResidencyResponse(
            replica="serving-0",
            versions=[resident(VERSIONS[page], refusal=refusal if page else None)],
            next_page_token="1" if page == 0 else "",
        )


def resident(name: str, **more: Any) -> adapters_pb.ResidentVersion:
    tier = adapters_pb.ResidentVersion.TIER_ENGINE
    return adapters_pb.ResidentVersion(name=name, tier=tier, leases=2, size_bytes=2048, **more)


def serve(
    script: Script, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> tuple[grpc.Server, int]:
    """Start a server for the script; the caller stops it."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    tuning_grpc.add_TuningServiceServicer_to_server(Tuning(script), server)
    serving_grpc.add_InferenceServiceServicer_to_server(Inference(script), server)
    adapters_grpc.add_AdapterServiceServicer_to_server(Adapters(script), server)
    address = f"127.0.0.1:{port}"
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    server.start()
    return server, port


def event(sequence: int, **what: Any) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(sequence=sequence, **what)


def state(sequence: int, value: job_pb2.JobState.ValueType, **more: Any) -> job_pb2.JobEvent:
    return event(sequence, state_changed=job_pb2.JobEvent.StateChanged(state=value, **more))


def step(sequence: int, number: int, total: int = 4) -> job_pb2.JobEvent:
    progress = job_pb2.JobEvent.StepProgress(
        step=number, total_steps=total, loss=2.0 / number, tokens_per_second=1000, eta_seconds=7
    )
    return event(sequence, step_progress=progress)


def a_job_that_succeeds() -> list[job_pb2.JobEvent]:
    return [
        state(1, job_pb2.JOB_STATE_PREPARING),
        state(2, job_pb2.JOB_STATE_RUNNING),
        *(step(2 + number, number) for number in range(1, 5)),
        event(7, evaluation=job_pb2.JobEvent.Evaluation(step=4, validation_loss=0.25)),
        event(8, published=job_pb2.JobEvent.Published(version=VERSIONS[0], promoted=True)),
        state(9, job_pb2.JOB_STATE_SUCCEEDED),
    ]

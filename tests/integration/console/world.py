"""A tenant with jobs, data and adapters, scripted; what its users have written is `text`."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as adapters_grpc
from tailorbird.adapters.v1 import judgement_pb2
from tailorbird.errors import NotFound, Unauthenticated
from tailorbird.serving.v1 import inference_service_pb2_grpc as serving_grpc
from tailorbird.tuning.v1 import dataset_pb2, job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning_pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as tuning_grpc
from tests.integration import scripted_services as scripted
from tests.integration.scripted_services import Context, Script, event, fail, state

TOKEN = "tb-5f0c41d2e7"
STEPS = 240
JOB = "tenants/acme/jobs/support-1121"
VERSIONS = scripted.VERSIONS


class World(Script):
    """What the services answer; `text` stands wherever a user's own words do."""

    def __init__(self, text: str = "weekly batch") -> None:
        super().__init__()
        self.text_of_users = text
        self.token: str | None = None
        """The token that callers must have; None: they need none."""
        self.uploaded = bytearray()
        self.job.CopyFrom(a_job(JOB, job_pb2.JOB_STATE_RUNNING, text, step=150))
        self.events = a_run(150)
        self.more = threading.Event()
        """Set: the job goes on to its end."""
        self.left = threading.Event()
        """Set: a watch is over."""
        self.receiving = threading.Event()
        """Set: a part of a file has come."""
        self.broken_off = threading.Event()
        """Set: an upload's call is over without an answer."""
        self.held = threading.Event()
        """Set: a call that is held has come."""
        self.let_go = threading.Event()
        """Set: it goes on."""
        self.done = threading.Event()
        """Set: it has been answered."""
        self._holds = ""
        self.report = a_report(text)

    def hold(self, method: str) -> None:
        """Answer no call of a method until `let_go`."""
        self._holds = f"{method}Request"

    def heard(self, request: Any, context: Context) -> None:
        super().heard(request, context)
        if type(request).__name__ == self._holds:
            context.add_callback(self._over)
            self.held.set()
            while context.is_active() and not self.let_go.wait(0.01):
                pass
        if self.token is not None:
            if self.metadata[-1].get("authorization") != f"Bearer {self.token}":
                fail(context, Unauthenticated("the token is not known"))
            name = getattr(request, "name", "") or getattr(request, "parent", "")
            if name and not f"{name}/".startswith("tenants/acme/"):
                fail(context, NotFound(name))

    def _over(self) -> None:
        (self.done if self.let_go.is_set() else self.broken_off).set()


def a_job(name: str, at: job_pb2.JobState.ValueType, text: str, *, step: int = 0) -> job_pb2.Job:
    job = job_pb2.Job(
        name=name,
        state=at,
        spec=job_pb2.JobSpec(
            base_model="Qwen3-4B",
            training_dataset="tenants/acme/datasets/support-tickets",
            validation_dataset="tenants/acme/datasets/support-heldout",
            adapter=scripted.ADAPTER,
            labels={"purpose": text},
        ),
        effective_hyperparameters=job_pb2.Hyperparameters(
            learning_rate=5.3e-4, epochs=3, batch_tokens=4096, seed=0
        ),
    )
    job.create_time.FromJsonString("2026-11-21T09:41:07Z")
    if step:
        job.start_time.FromJsonString("2026-11-21T09:41:09Z")
        job.progress.CopyFrom(
            job_pb2.JobProgress(step=step, total_steps=STEPS, loss=loss(step), validation_loss=0.62)
        )
    return job


def loss(step: int) -> float:
    return 0.42 + 1.9 * math.exp(-step / 45) + 0.05 * math.sin(step * 1.7) * math.exp(-step / 160)


def a_run(until: int) -> list[job_pb2.JobEvent]:
    """A job's events up to a step; the last ones, if it is the last step, are its end."""
    data = job_pb2.DataReport(records=2400, kept=2388, dropped_too_long=12, trained_tokens=412_000)
    data.masked_tokens, data.dropped_lines[:] = 689_000, range(17, 300, 24)
    prepared = job_pb2.JobEvent.Prepared(
        training=data, total_steps=STEPS, trainable_parameters=8_388_608
    )
    found = [
        state(0, job_pb2.JOB_STATE_PREPARING),
        event(0, prepared=prepared),
        event(0, warning=job_pb2.JobEvent.Warning(reason="FEW_RECORDS", message="60 held out")),
        state(0, job_pb2.JOB_STATE_RUNNING),
    ]
    for step in range(1, until + 1):
        if step % 30 == 1:
            value = loss(step) + 0.09
            found.append(
                event(0, evaluation=job_pb2.JobEvent.Evaluation(step=step, validation_loss=value))
            )
        found.append(event(0, step_progress=progress(step)))
    if until == STEPS:
        published = job_pb2.JobEvent.Published(version=VERSIONS[0], promoted=True)
        found += [event(0, published=published), state(0, job_pb2.JOB_STATE_SUCCEEDED)]
    for number, one in enumerate(found, 1):
        one.sequence = number
        one.time.FromJsonString(f"2026-11-21T09:{42 + number // 60:02}:{number % 60:02}Z")
    return found


def progress(step: int) -> job_pb2.JobEvent.StepProgress:
    warm = min(1.0, step / 12)
    return job_pb2.JobEvent.StepProgress(
        step=step,
        total_steps=STEPS,
        loss=loss(step),
        learning_rate=5.3e-4 * warm * (0.55 + 0.45 * math.cos(math.pi * step / STEPS)),
        tokens_per_second=3150 + 140 * math.sin(step / 3),
        eta_seconds=(STEPS - step) * 1.3,
    )


def a_report(text: str) -> dataset_pb2.DatasetReport:
    kind = dataset_pb2.DatasetReport
    return kind(
        records=2400,
        warnings=[dataset_pb2.DataWarning(reason="DUPLICATE_RECORDS", message=text)],
        labels=[kind.Label(label=text, records=1400), kind.Label(label="billing", records=1000)],
    )


class Tuning(scripted.Tuning):
    script: World

    def ListJobs(
        self, request: tuning_pb.ListJobsRequest, context: Context
    ) -> tuning_pb.ListJobsResponse:
        self.script.heard(request, context)
        text = self.script.text_of_users
        if request.page_token:
            return tuning_pb.ListJobsResponse(
                jobs=[a_job("tenants/acme/jobs/first", job_pb2.JOB_STATE_CANCELLED, text)]
            )
        done = a_job("tenants/acme/jobs/support-1118", job_pb2.JOB_STATE_SUCCEEDED, text, step=240)
        done.version, done.promoted = VERSIONS[1], True
        waiting = a_job("tenants/acme/jobs/invoices-3", job_pb2.JOB_STATE_QUEUED, text)
        failed = a_job("tenants/acme/jobs/invoices-2", job_pb2.JOB_STATE_FAILED, text, step=31)
        failed.error.message = text
        return tuning_pb.ListJobsResponse(
            jobs=[waiting, self.script.job, failed, done], next_page_token="more&rows"
        )

    def GetJob(
        self, request: tuning_pb.GetJobRequest, context: Context
    ) -> tuning_pb.GetJobResponse:
        if request.name.endswith("/missing"):
            fail(context, NotFound(request.name))
        return super().GetJob(request, context)

    def WatchJob(
        self, request: tuning_pb.WatchJobRequest, context: Context
    ) -> Iterator[tuning_pb.WatchJobResponse]:
        context.add_callback(self.script.left.set)
        yield from super().WatchJob(request, context)
        # What a job that goes on does: nothing yet, and then the rest of it.
        self.script.more.wait(30)
        ended = a_run(STEPS)
        if context.is_active():
            end = a_job(JOB, job_pb2.JOB_STATE_SUCCEEDED, self.script.text_of_users, step=STEPS)
            end.version, end.promoted = VERSIONS[0], True
            self.script.job = end
            for one in ended[len(self.script.events) :]:
                yield tuning_pb.WatchJobResponse(event=one)

    def UploadDataset(
        self, request_iterator: Iterator[tuning_pb.UploadDatasetRequest], context: Context
    ) -> tuning_pb.UploadDatasetResponse:
        header = next(request_iterator).header
        self.script.heard(header, context)

        def over() -> None:
            if context.code() is None:
                self.script.broken_off.set()

        context.add_callback(over)
        for request in request_iterator:
            self.script.uploaded += request.chunk
            self.script.receiving.set()
        name = f"{header.parent}/datasets/{header.dataset_id}"
        return tuning_pb.UploadDatasetResponse(dataset=dataset_pb2.Dataset(name=name))

    def ListDatasets(
        self, request: tuning_pb.ListDatasetsRequest, context: Context
    ) -> tuning_pb.ListDatasetsResponse:
        self.script.heard(request, context)
        names = ("invoices", "support-heldout", "support-tickets")
        found = [a_dataset(f"{request.parent}/datasets/{name}", self.script) for name in names]
        return tuning_pb.ListDatasetsResponse(datasets=found)

    def GetDataset(
        self, request: tuning_pb.GetDatasetRequest, context: Context
    ) -> tuning_pb.GetDatasetResponse:
        self.script.heard(request, context)
        return tuning_pb.GetDatasetResponse(dataset=a_dataset(request.name, self.script))

    def GetDatasetReport(
        self, request: tuning_pb.GetDatasetReportRequest, context: Context
    ) -> tuning_pb.GetDatasetReportResponse:
        self.script.heard(request, context)
        page = f"<!DOCTYPE html><title>report</title><p>{self.script.text_of_users}</p>"
        return tuning_pb.GetDatasetReportResponse(content=page.encode())


def a_dataset(name: str, world: World) -> dataset_pb2.Dataset:
    found = dataset_pb2.Dataset(
        name=name,
        format=dataset_pb2.DATASET_FORMAT_CHAT,
        record_count=2400,
        size_bytes=1_834_112,
        sha256="3b" * 32,
        ignored_fields=[world.text_of_users],
        report=world.report,
        source_uri=f"s3://exports/{world.text_of_users}",
    )
    found.create_time.FromJsonString("2026-11-20T16:02:11Z")
    return found


class Adapters(scripted.Adapters):
    script: World

    def _route(self, reason: str) -> adapters_pb.Route:
        route = super()._route(reason)
        route.create_time.FromJsonString("2026-11-21T09:58:40Z")
        weights = ((VERSIONS[0], 10), (VERSIONS[1], 90))
        route.versions.extend(
            adapters_pb.RoutedVersion(version=version, weight=weight) for version, weight in weights
        )
        return route

    def ListVersions(
        self, request: adapters_pb.ListVersionsRequest, context: Context
    ) -> adapters_pb.ListVersionsResponse:
        self.script.heard(request, context)
        return adapters_pb.ListVersionsResponse(
            versions=[a_version(name, self.script) for name in VERSIONS]
        )

    def GetVersion(
        self, request: adapters_pb.GetVersionRequest, context: Context
    ) -> adapters_pb.GetVersionResponse:
        self.script.heard(request, context)
        return adapters_pb.GetVersionResponse(version=a_version(request.name, self.script))

    def GetVersionReport(
        self, request: adapters_pb.GetVersionReportRequest, context: Context
    ) -> adapters_pb.GetVersionReportResponse:
        self.script.heard(request, context)
        page = f"<!DOCTYPE html><title>report</title><p>{self.script.text_of_users}</p>"
        return adapters_pb.GetVersionReportResponse(content=page.encode())


def a_version(name: str, world: World) -> adapters_pb.Version:
    kind = adapters_pb.Version
    found = kind(
        name=name,
        base_model="Qwen3-4B",
        rank=16,
        alpha=32,
        target_modules=["q_proj", "v_proj"],
        files=[kind.File(path="report.html", size_bytes=81_000)],
        lineage=kind.Lineage(job=JOB, training_dataset="tenants/acme/datasets/support-tickets"),
        evaluation=kind.Evaluation(
            steps=STEPS, training_loss=0.43, validation_loss=0.51, base_validation_loss=2.31
        ),
        refusal=adapters_pb.Refusal(reason="PROBE_MISMATCH", message=world.text_of_users)
        if name == VERSIONS[1] and "<" in world.text_of_users
        else None,
    )
    found.create_time.FromJsonString("2026-11-21T09:57:12Z")
    interval = judgement_pb2.Judgement.Interval
    judged = found.judgement
    judged.records, judged.primary_metric = 180, "label_accuracy"
    judged.decision.promote = True
    judged.decision.reason, judged.decision.message = "BETTER", world.text_of_users
    for who, value in (("tuned", 0.93), ("base", 0.41), ("few_shot", 0.66)):
        one = judged.candidates.add(candidate=who)
        bounds = interval(value=value, low=value - 0.04, high=value + 0.04)
        one.metrics["label_accuracy"].CopyFrom(bounds)
    return found


def serve(world: World) -> tuple[grpc.Server, int]:
    """Start a server for the world; the caller stops it."""
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    tuning_grpc.add_TuningServiceServicer_to_server(Tuning(world), server)
    serving_grpc.add_InferenceServiceServicer_to_server(scripted.Inference(world), server)
    adapters_grpc.add_AdapterServiceServicer_to_server(Adapters(world), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port

"""TuningService over a real socket, with a real store behind it and scripted workers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tailorbird.base_model import BaseModelFiles
from tailorbird.call_error import CallError
from tailorbird.feedback import FeedbackStore
from tailorbird.manifest import ADAPTER_WEIGHTS, MANIFEST, RANKS
from tailorbird.names import JobName, VersionName
from tailorbird.object_store import ObstoreStore
from tailorbird.profile import write_profile
from tailorbird.registry import AdapterRegistry
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.status import reason_of, reason_of_status
from tailorbird.servable import NOT_SERVED
from tailorbird.trainer_client import TrainerClient
from tailorbird.tuning.v1 import dataset_pb2, job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.unit.trainer_svc.fakes import ScriptedChecks, ScriptedExecutor
from tests.unit.trainer_svc.values import make_profile, put_version
from trainer_svc.api.servicer import TuningServicer
from trainer_svc.bases import BaseModels
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.feedback.service import FeedbackService
from trainer_svc.jobs.database import Database, DatabaseUnavailable
from trainer_svc.jobs.events import JobEvent, Unknown
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.model import DataPolicy, TooLong
from trainer_svc.jobs.service import TuningService
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.sweep_service import SweepService
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.protocol import Ready, Suspend
from trainer_svc.served import ServingLimits

ACME = "tenants/acme"
RECORD = json.dumps(
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
).encode()
BASE = BaseModelFiles(
    "base", Path("/nowhere"), f"sha256:{'1' * 64}", f"sha256:{'2' * 64}", 512, 64, "Arch"
)
OTHER = BaseModelFiles(
    "other", Path("/nowhere"), f"sha256:{'3' * 64}", f"sha256:{'2' * 64}", 256, 64, "Arch", 7
)
LIMIT = 300 * 2**20
ADDRESS = "jane.roe@web.de"


@dataclass
class Trainer:
    stub: Any
    executor: ScriptedExecutor
    store: ObstoreStore
    folder: Path
    server: RpcServer
    ready: dict[str, Ready]
    """The last one is what a worker said at its start."""


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[Trainer]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/jobs.db")
    await database.migrate()
    feed = Feed()
    jobs = JobStore(database, feed)
    datasets = DatasetStore(object_store, tmp_path / "spool", LIMIT, 2**20)
    metrics = TrainerMetrics(CollectorRegistry())
    executor = ScriptedExecutor(object_store)
    bases = BaseModels((BASE, OTHER))
    adapters = AdapterRegistry(object_store)
    ready: dict[str, Ready] = {}
    dispatcher = Dispatcher(
        jobs, datasets, adapters, executor,
        Publisher(jobs, object_store, metrics), metrics,
        bases=bases, workers=1, jobs_per_worker=4, max_worker_losses=3,
    )  # fmt: skip
    limits = ServingLimits(object_store, bases, profile="default", max_lora_rank=64, device="cpu")
    service = TuningService(
        jobs, datasets, feed, dispatcher, adapters, bases, limits, ScriptedChecks()
    )
    server = RpcServer("127.0.0.1", 0, None, CollectorRegistry(), [])
    feedback = FeedbackService(FeedbackStore(object_store), datasets, max_record_bytes=2**20)
    servicer = TuningServicer(
        service, SweepService(service), datasets, feedback, metrics, server.endless,
        max_dataset_bytes=LIMIT, max_record_bytes=2**20, workers=1, jobs_per_worker=4, device="cpu",
        ready=ready,
    )  # fmt: skip
    pb_grpc.add_TuningServiceServicer_to_server(servicer, server.grpc)
    await server.start()
    running = asyncio.create_task(dispatcher.run())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Trainer(
            pb_grpc.TuningServiceStub(channel), executor, object_store, tmp_path, server, ready
        )
    await dispatcher.stop()
    await running
    await server.stop(0)
    await database.close()


async def upload(trainer: Trainer, *chunks: bytes, dataset: str = "chats", **header: Any) -> Any:
    def messages() -> Iterator[pb.UploadDatasetRequest]:
        head = pb.UploadDatasetHeader(**{"parent": ACME, "dataset_id": dataset, **header})
        yield pb.UploadDatasetRequest(header=head)
        for chunk in chunks:
            yield pb.UploadDatasetRequest(chunk=chunk)

    return (await trainer.stub.UploadDataset(messages())).dataset


async def test_an_upload_is_rid_of_personal_data_and_says_how_much(trainer: Trainer) -> None:
    record = {
        "messages": [
            {"role": "user", "content": f"I am {ADDRESS}"},
            {"role": "assistant", "content": f"Hello, {ADDRESS}, born 3 May 1984"},
        ]
    }
    data = json.dumps(record).encode()
    with capture_logs() as logs:
        made = await upload(trainer, data, personal_data=dataset_pb2.PERSONAL_DATA_MODE_SUBSTITUTE)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await upload(
                trainer, data, dataset="b", personal_data=dataset_pb2.PERSONAL_DATA_MODE_REFUSE
            )
    report = made.personal_data
    assert report.mode == dataset_pb2.PERSONAL_DATA_MODE_SUBSTITUTE
    assert report.record_count == 1
    kinds = [(each.kind, each.count, list(each.lines)) for each in report.kinds]
    assert kinds == [("date_of_birth", 1, [1]), ("email", 2, [1])]
    assert made.source_sha256 == hashlib.sha256(data).hexdigest() != made.sha256
    got = await trainer.stub.GetDataset(pb.GetDatasetRequest(name=made.name))
    assert got.dataset == made
    stored = await trainer.store.get(f"{made.name}/data-{made.sha256}.jsonl")
    assert ADDRESS.encode() not in stored
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(refused.value) == "PERSONAL_DATA_FOUND"
    field, told = violation(refused.value)
    assert field == "chunk"
    assert told == "personal data in 1 records: email 2× (lines 1); date_of_birth 1× (lines 1)"
    assert ADDRESS not in repr(refused.value) + repr(logs) + str(made)


async def test_a_mode_that_is_none_is_refused(trainer: Trainer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await upload(trainer, RECORD, personal_data=99)
    assert violation(refused.value) == ("header.personal_data", "99 is not a mode")


async def test_a_trainer_without_the_extra_says_what_to_install(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tailorbird.personal_data.scanner", None)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await upload(trainer, RECORD, personal_data=dataset_pb2.PERSONAL_DATA_MODE_SCAN)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(refused.value) == "PRIVACY_EXTRA_MISSING"
    assert "pip install 'tailorbird[privacy]'" in str(refused.value.details())
    assert not (await upload(trainer, RECORD)).HasField("personal_data")


def spec(**fields: Any) -> job_pb2.JobSpec:
    given = {"training_dataset": f"{ACME}/datasets/chats", "adapter": f"{ACME}/adapters/voice"}
    return job_pb2.JobSpec(**{**given, **fields})


async def create(trainer: Trainer, spec: job_pb2.JobSpec, **fields: Any) -> Any:
    request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec), **fields)
    return (await trainer.stub.CreateJob(request)).job


async def watch(trainer: Trainer, name: str, after: int = 0) -> list[Any]:
    stream = trainer.stub.WatchJob(pb.WatchJobRequest(name=name, after_sequence=after))
    async with asyncio.timeout(20):
        return [response.event async for response in stream]


def violation(error: grpc.RpcError) -> tuple[str, str]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    (found,) = bad.field_violations
    return found.field, found.description


async def objects(trainer: Trainer) -> list[str]:
    return sorted([info.key async for info in trainer.store.objects("tenants")])


async def test_a_dataset_is_stored_and_found(trainer: Trainer) -> None:
    data = RECORD + b"\n" + RECORD
    made = await upload(trainer, data[:20], data[20:], size_bytes=len(data))
    assert made.format == dataset_pb2.DATASET_FORMAT_CHAT
    assert (made.record_count, made.size_bytes) == (2, len(data))
    got = await trainer.stub.GetDataset(pb.GetDatasetRequest(name=made.name))
    assert got.dataset == made


@pytest.mark.parametrize(
    ("chunks", "header", "code", "field", "text"),
    [
        ([RECORD, b"\nnope"], {}, "INVALID_ARGUMENT", "line 2", "not JSON"),
        ([b'{"x": 1}'], {}, "INVALID_ARGUMENT", "line 1", "unknown shape"),
        (
            [RECORD],
            {"format": dataset_pb2.DATASET_FORMAT_TEXT},
            "INVALID_ARGUMENT",
            "line 1",
            "chat where the format asked for is text",
        ),
        ([RECORD], {"format": 9}, "INVALID_ARGUMENT", "header.format", "9 is not a format"),
        ([], {}, "INVALID_ARGUMENT", "chunk", "the file has no records"),
        ([b"PK\x03\x04"], {}, "INVALID_ARGUMENT", "line 1", "not JSON"),
        ([RECORD], {"dataset_id": "../x"}, "INVALID_ARGUMENT", "header.dataset_id", "../x"),
        ([RECORD], {"parent": "tenants/../x"}, "INVALID_ARGUMENT", "header.parent", "../x"),
        ([RECORD], {"parent": ""}, "INVALID_ARGUMENT", "header.parent", "tenants/{tenant}"),
        ([RECORD], {"size_bytes": 1}, "INVALID_ARGUMENT", "header.size_bytes", "1 bytes were"),
        ([RECORD], {"size_bytes": LIMIT + 1}, "INVALID_ARGUMENT", "chunk", f"at most {LIMIT}"),
    ],
)
async def test_a_bad_upload_is_refused_and_leaves_nothing(
    trainer: Trainer, chunks: list[bytes], header: Any, code: str, field: str, text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload(trainer, *chunks, **header)
    assert caught.value.code().name == code
    found, description = violation(caught.value)
    assert found == field
    assert text in description
    assert await objects(trainer) == []
    assert list((trainer.folder / "spool").iterdir()) == []


async def test_a_text_file_is_uploaded_by_its_name(trainer: Trainer) -> None:
    data = b'{"text": "a", "messages": []}'
    made = await upload(trainer, data, format=dataset_pb2.DATASET_FORMAT_TEXT)
    assert made.format == dataset_pb2.DATASET_FORMAT_TEXT
    assert list(made.ignored_fields) == ["messages"]


async def test_an_upload_without_header_is_refused(trainer: Trainer) -> None:
    for messages in ([], [pb.UploadDatasetRequest(chunk=b"x")], [pb.UploadDatasetRequest()]):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trainer.stub.UploadDataset(iter(messages))
        assert violation(caught.value)[0] == "header"


async def test_an_upload_cut_half_way_leaves_nothing(trainer: Trainer) -> None:
    sent = asyncio.Event()

    async def messages() -> AsyncIterator[pb.UploadDatasetRequest]:
        head = pb.UploadDatasetHeader(parent=ACME, dataset_id="chats")
        yield pb.UploadDatasetRequest(header=head)
        yield pb.UploadDatasetRequest(chunk=RECORD + b"\n")
        sent.set()
        await asyncio.Event().wait()

    call = trainer.stub.UploadDataset(messages())
    reading = asyncio.ensure_future(call)
    await sent.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.stub.GetDataset(pb.GetDatasetRequest(name=f"{ACME}/datasets/chats"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert await objects(trainer) == []


async def test_a_job_runs_and_is_watched(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    always = job_pb2.PROMOTION_POLICY_ALWAYS
    asked = spec(labels={"team": "a"}, promotion_policy=always)
    job = await create(trainer, asked, job_id="first")
    assert (job.name, job.state) == (f"{ACME}/jobs/first", job_pb2.JOB_STATE_QUEUED)
    assert job.spec.base_model == "base"
    assert (job.spec.lora.rank, job.spec.lora.alpha) == (16, 32)
    events = await watch(trainer, job.name)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [e.WhichOneof("event") for e in events if not e.HasField("state_changed")] == [
        "prepared", *["step_progress"] * 4, "published",
    ]  # fmt: skip
    figures = [e.step_progress for e in events if e.HasField("step_progress")]
    assert {each.update_to_weight_ratio for each in figures} == {0.002}
    assert {each.worker_memory_bytes for each in figures} == {2**33}
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    assert await watch(trainer, job.name, after=5) == events[5:]
    assert await watch(trainer, job.name, after=len(events)) == []
    done = (await trainer.stub.GetJob(pb.GetJobRequest(name=job.name))).job
    assert done.promoted
    assert done.progress.step == 4
    assert done.effective_hyperparameters.epochs == 1
    assert done.HasField("end_time")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch(trainer, job.name, after=len(events) + 1)
    assert violation(caught.value)[0] == "after_sequence"


async def test_a_failed_job_says_why(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    await watch(trainer, (await create(trainer, spec(), job_id="warm-up")).name)
    worker = trainer.executor.started[0]
    worker.hold = "step-1"
    job = await create(trainer, spec())
    watching = asyncio.create_task(watch(trainer, job.name))
    async with asyncio.timeout(20):
        await worker.held.wait()
    worker.fail()
    events = await watching
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_FAILED
    assert reason_of_status(events[-1].state_changed.error) == "BROKEN"
    done = (await trainer.stub.GetJob(pb.GetJobRequest(name=job.name))).job
    assert done.error.message == "as the test wants"


HYPER = "hyperparameters"


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        (
            {"base_model": "gpt"},
            "base_model",
            "'gpt' is not offered; this trainer has 'base', 'other'",
        ),
        ({"lora": {"rank": 7}}, "lora.rank", "7 is not one of [8, 16, 32, 64]"),
        ({"lora": {"rank": 0}}, "lora.rank", "0 is not one of [8, 16, 32, 64]"),
        ({"lora": {"rank": 2**31 - 1}}, "lora.rank", "2147483647 is not one of"),
        ({"lora": {"rank": 128}}, "lora.rank", "128 is not one of [8, 16, 32, 64]"),
        ({"lora": {"alpha": 0}}, "lora.alpha", "0 is not above 0 and at most 1024"),
        ({"lora": {"alpha": float("nan")}}, "lora.alpha", "nan is not above 0"),
        ({"lora": {"dropout": 1}}, "lora.dropout", "1 is not at least 0 and below 1"),
        ({"lora": {"target_modules": ["q.*"]}}, "lora.target_modules[0]", "'q.*' is not one of"),
        (
            {"lora": {"target_modules": ["q_proj", "lm_head"]}},
            "lora.target_modules[1]",
            "'lm_head'",
        ),
        (
            {
                HYPER: {"early_stopping_patience": 2},
                "promotion_policy": job_pb2.PROMOTION_POLICY_ALWAYS,
            },
            f"{HYPER}.early_stopping_patience",
            "needs validation data",
        ),
        ({HYPER: {"learning_rate": -1}}, f"{HYPER}.learning_rate", "-1 is not above 0"),
        ({HYPER: {"learning_rate": 2}}, f"{HYPER}.learning_rate", "2 is not above 0 and at most 1"),
        ({HYPER: {"epochs": 0}}, f"{HYPER}.epochs", "0 is not at least 1 and at most 1000"),
        ({HYPER: {"batch_tokens": 5}}, f"{HYPER}.batch_tokens", "5 is not at least 64"),
        ({HYPER: {"max_sequence_length": 513}}, f"{HYPER}.max_sequence_length", "model's 512"),
        ({HYPER: {"seed": -1}}, f"{HYPER}.seed", "-1 is not at least 0"),
        ({"validation_fraction": 0.9}, "validation_fraction", "0.9 is not above 0 and at most 0.5"),
        ({"validation_fraction": 0}, "validation_fraction", "0 is not above 0"),
        ({"adapter": "voice"}, "adapter", "tenants/{tenant}/adapters/{adapter}"),
        ({"adapter": f"{ACME}/adapters/../x"}, "adapter", "../x"),
        ({"adapter": "tenants/globex/adapters/x"}, "adapter", "is not of tenants/acme"),
        ({"training_dataset": "tenants/globex/datasets/x"}, "training_dataset", "is not of"),
        ({"validation_dataset": f"{ACME}/datasets/chats"}, "validation_dataset", "another dataset"),
        ({"data_limits": {"max_leakage": -0.1}}, "data_limits.max_leakage", "-0.1 is not at least"),
        ({"data_limits": {"max_label_share": 1.5}}, "data_limits.max_label_share", "at most 1"),
        (
            {"data_limits": {"max_contradictions": float("nan")}},
            "data_limits.max_contradictions",
            "nan",
        ),
        ({"promotion_policy": 77}, "promotion_policy", "77 is not a policy"),
        ({"data": {"too_long": 77}}, "data.too_long", "77 is not such a rule"),
        (
            {"data": {"max_too_long_fraction": 1.5}},
            "data.max_too_long_fraction",
            "1.5 is not at least 0 and at most 1",
        ),
        ({"data": {"max_too_long_fraction": -0.1}}, "data.max_too_long_fraction", "-0.1 is not"),
        ({"labels": {"": "x"}}, "labels", "keys have 1 to 63"),
    ],
)
async def test_a_wrong_job_names_field_value_and_limit(
    trainer: Trainer, change: dict[str, Any], field: str, text: str
) -> None:
    await upload(trainer, RECORD)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec(**change))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    found, description = violation(caught.value)
    assert found == f"job.spec.{field}"
    assert text in description
    listed = await trainer.stub.ListJobs(pb.ListJobsRequest(parent=ACME))
    assert list(listed.jobs) == []


async def test_a_job_says_what_becomes_of_records_that_are_too_long(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    usual = await create(trainer, spec())
    assert usual.spec.data.too_long == job_pb2.TOO_LONG_DROP
    assert usual.spec.data.max_too_long_fraction == 0.1
    for too_long in (job_pb2.TOO_LONG_TRUNCATE, job_pb2.TOO_LONG_DROP, job_pb2.TOO_LONG_ERROR):
        policy = job_pb2.DataPolicy(too_long=too_long, max_too_long_fraction=0)
        made = await create(trainer, spec(data=policy))
        assert made.spec.data == policy
        await watch(trainer, made.name)
    told = trainer.executor.started[0].assignment.data
    assert told == DataPolicy(too_long=TooLong.ERROR, max_too_long_fraction=0)


async def test_a_job_needs_its_dataset(trainer: Trainer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(caught.value) == "DATASET_NOT_FOUND"


async def test_one_request_id_makes_one_job(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    first = await create(trainer, spec(), request_id="r")
    again = await create(trainer, spec(), request_id="r")
    assert again.name == first.name
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec(lora={"rank": 8}), request_id="r")
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(caught.value) == "REQUEST_ID_REUSED"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec(), request_id="x" * 129)
    assert violation(caught.value)[0] == "request_id"


async def test_validate_only_stores_nothing(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    job = await create(trainer, spec(), validate_only=True, job_id="tried", request_id="r")
    assert job.name == f"{ACME}/jobs/tried"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.stub.GetJob(pb.GetJobRequest(name=job.name))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await create(trainer, spec(), job_id="tried")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec(), validate_only=True, job_id="tried")
    assert reason_of(caught.value) == "JOB_EXISTS"


async def test_jobs_are_listed_in_pages(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    made = [(await create(trainer, spec(), job_id=f"job-{i}")).name for i in range(5)]
    token, found = "", []
    while True:
        request = pb.ListJobsRequest(parent=ACME, page_size=2, page_token=token)
        page = await trainer.stub.ListJobs(request)
        found += [job.name for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert found == made[::-1]
    for request, field in (
        (pb.ListJobsRequest(parent=ACME, page_size=-1), "page_size"),
        (pb.ListJobsRequest(parent=ACME, page_token="!!"), "page_token"),
        (pb.ListJobsRequest(parent=ACME, page_token="aGVsbG8="), "page_token"),
        (pb.ListJobsRequest(parent=ACME, state=99), "state"),  # type: ignore[arg-type]
        (pb.ListJobsRequest(parent=ACME, adapter="x"), "adapter"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trainer.stub.ListJobs(request)
        assert violation(caught.value)[0] == field


async def test_a_job_is_cancelled(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    job = await create(trainer, spec())
    done = await watch(trainer, job.name)
    assert done[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.stub.CancelJob(pb.CancelJobRequest(name=job.name))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    worker = trainer.executor.started[0]
    worker.hold = "step-2"
    other = await create(trainer, spec(), job_id="other")
    async with asyncio.timeout(20):
        await worker.held.wait()
    asked = (await trainer.stub.CancelJob(pb.CancelJobRequest(name=other.name))).job
    assert asked.cancel_requested
    events = await watch(trainer, other.name)
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_CANCELLED
    ended = (await trainer.stub.GetJob(pb.GetJobRequest(name=other.name))).job
    assert (ended.state, ended.cancel_requested) == (job_pb2.JOB_STATE_CANCELLED, False)


async def test_a_paused_job_that_is_cancelled_leaves_no_checkpoint(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    await watch(trainer, (await create(trainer, spec(), job_id="done")).name)
    worker = trainer.executor.started[0]
    worker.hold = "step-2"
    job = await create(trainer, spec(), job_id="other")
    async with asyncio.timeout(20):
        await worker.held.wait()
        await trainer.store.create(f"{job.name}/checkpoints/00000002/manifest.json", b"{}")
        await trainer.stub.PauseJob(pb.PauseJobRequest(name=job.name))
        async for response in trainer.stub.WatchJob(pb.WatchJobRequest(name=job.name)):
            if response.event.state_changed.state == job_pb2.JOB_STATE_PAUSED:
                break
        await trainer.stub.CancelJob(pb.CancelJobRequest(name=job.name))
        # What is deleted after the answer has no event.
        while await trainer.store.folders(f"{ACME}/jobs"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_job_is_paused_and_resumed(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    done = await create(trainer, spec(), job_id="done")
    await watch(trainer, done.name)
    worker = trainer.executor.started[0]
    worker.hold = "step-2"
    job = await create(trainer, spec(), job_id="other")
    async with asyncio.timeout(20):
        await worker.held.wait()
    stream = trainer.stub.WatchJob(pb.WatchJobRequest(name=job.name))
    events = aiter(stream)
    async with asyncio.timeout(20):
        await trainer.stub.PauseJob(pb.PauseJobRequest(name=job.name))
        while (await anext(events)).event.state_changed.state != job_pb2.JOB_STATE_PAUSED:
            pass
        paused = (await trainer.stub.PauseJob(pb.PauseJobRequest(name=job.name))).job
        assert paused.state == job_pb2.JOB_STATE_PAUSED
        assert not paused.pause_requested
        worker.hold = ""
        resumed = (await trainer.stub.ResumeJob(pb.ResumeJobRequest(name=job.name))).job
        assert resumed.state == job_pb2.JOB_STATE_QUEUED
        last = [response.event.state_changed.state async for response in events][-1]
    assert last == job_pb2.JOB_STATE_SUCCEEDED
    assert worker.told(Suspend) == ["other"]


@pytest.mark.parametrize(
    ("method", "reason"), [("Pause", "JOB_NOT_PAUSABLE"), ("Resume", "JOB_NOT_RESUMABLE")]
)
async def test_a_job_that_has_ended_is_neither_paused_nor_resumed(
    trainer: Trainer, method: str, reason: str
) -> None:
    await upload(trainer, RECORD)
    job = await create(trainer, spec())
    await watch(trainer, job.name)
    call, request = getattr(trainer.stub, f"{method}Job"), getattr(pb, f"{method}JobRequest")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(request(name=job.name))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(caught.value) == reason
    assert "it is SUCCEEDED" in (caught.value.details() or "")
    for wrong in ("tenants/other/jobs/none", "x"):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(request(name=wrong))


async def test_a_job_says_with_whom_it_shares_a_worker(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    assert (await create(trainer, spec())).spec.isolation == job_pb2.ISOLATION_SHARED
    alone = await create(trainer, spec(isolation=job_pb2.ISOLATION_EXCLUSIVE))
    assert alone.spec.isolation == job_pb2.ISOLATION_EXCLUSIVE
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec(isolation=99))
    assert violation(caught.value) == ("job.spec.isolation", "99 is not an isolation")


async def test_an_event_of_a_later_release_is_not_sent(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(trainer, RECORD)
    job = await create(trainer, spec())
    whole = await watch(trainer, job.name)
    read = JobStore.events

    async def later(self: JobStore, *args: Any) -> list[JobEvent]:
        return [
            event.model_copy(update={"payload": Unknown(kind="sample")})
            if event.sequence in {2, 4}
            else event
            for event in await read(self, *args)
        ]

    monkeypatch.setattr(JobStore, "events", later)
    monkeypatch.setattr("trainer_svc.jobs.watching._EVENTS_PER_READ", 1)
    seen = await watch(trainer, job.name)
    assert [event.sequence for event in seen] == [
        event.sequence for event in whole if event.sequence not in {2, 4}
    ]


async def test_the_trainer_says_what_its_workers_chose(trainer: Trainer) -> None:
    info = await trainer.stub.GetTrainerInfo(pb.GetTrainerInfoRequest())
    assert not any(base.HasField("engine") for base in info.base_models)
    chosen: dict[str, Any] = {
        "dtype": "float16", "compute_dtype": "bfloat16", "attention": "varlen",
        "optimizer": "adamw_fused", "gradient_checkpointing": True,
    }  # fmt: skip
    trainer.ready[OTHER.digest] = Ready(device="cuda", **chosen)
    info = await trainer.stub.GetTrainerInfo(pb.GetTrainerInfoRequest())
    assert not info.base_models[0].HasField("engine")
    assert info.base_models[1].engine == pb.Engine(**chosen)


async def test_serving_says_what_a_job_may_ask_for(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    info = await trainer.stub.GetTrainerInfo(pb.GetTrainerInfoRequest())
    assert list(info.ranks) == [rank for rank in RANKS if rank <= 64]
    assert info.base_models[0].digest == BASE.digest
    assert (info.workers, info.jobs_per_worker) == (1, 4)
    profile = make_profile(BASE)
    await write_profile(trainer.store, profile)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec(lora={"rank": 32}))
    assert violation(caught.value)[1] == "32 is not one of [8, 16]"
    other = profile.model_copy(update={"base_model_digest": f"sha256:{'9' * 64}"})
    await write_profile(trainer.store, other)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec())
    assert reason_of(caught.value) == "BASE_MISMATCH"


async def test_a_job_may_name_any_base_and_suits_a_profile_that_has_it(trainer: Trainer) -> None:
    await upload(trainer, RECORD)

    async def offered() -> dict[str, list[int]]:
        info = await trainer.stub.GetTrainerInfo(pb.GetTrainerInfoRequest())
        return {base.name: list(base.ranks) for base in info.base_models}

    info = await trainer.stub.GetTrainerInfo(pb.GetTrainerInfoRequest())
    assert info.base_models[1] == pb.BaseModel(
        name="other",
        digest=OTHER.digest,
        max_sequence_length=256,
        ranks=[8, 16, 32, 64],
        weight_bytes=7,
    )
    job = await create(trainer, spec(base_model="other"))
    assert job.spec.base_model == "other"
    assert (await watch(trainer, job.name))[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    assert trainer.executor.started[-1].assignment.base_model_digest == OTHER.digest
    database = Database(f"sqlite+aiosqlite:///{trainer.folder}/jobs.db")
    stored = await JobStore(database, Feed()).get(JobName.parse(job.name))
    await database.close()
    assert stored.spec.base_model_digest == OTHER.digest
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(
            trainer, spec(base_model="other", hyperparameters={"max_sequence_length": 257})
        )
    assert violation(caught.value)[1] == "257 is more than the base model's 256"

    profile = make_profile(BASE)
    await write_profile(trainer.store, profile)
    assert await offered() == {"base": [8, 16], "other": []}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec(base_model="other"))
    assert reason_of(caught.value) == "BASE_MISMATCH"
    assert "default: base" in str(caught.value.details())

    # Any profile with its digest will do; of several the strictest counts.
    for name, rank in (("others-a", 64), ("others-b", 32)):
        changes = {"profile": name, "base_model_digest": OTHER.digest, "max_lora_rank": rank}
        await write_profile(trainer.store, profile.model_copy(update=changes))
    await trainer.store.put("profiles/broken.json", b"{")
    assert await offered() == {"base": [8, 16], "other": [8, 16, 32]}
    await create(trainer, spec(base_model="other", lora={"rank": 32}))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec(base_model="other", lora={"rank": 64}))
    assert violation(caught.value) == ("job.spec.lora.rank", "64 is not one of [8, 16, 32]")
    await create(trainer, spec())


async def test_a_stop_ends_a_watch_at_once_with_a_reason(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    await watch(trainer, (await create(trainer, spec(), job_id="warm-up")).name)
    worker = trainer.executor.started[0]
    worker.hold = "step-2"
    job = await create(trainer, spec())
    await worker.held.wait()
    stream = trainer.stub.WatchJob(pb.WatchJobRequest(name=job.name))
    events = aiter(stream)
    seen = [(await anext(events)).event.sequence]
    async with asyncio.timeout(20):
        await trainer.server.stop(600)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for response in events:
                seen.append(response.event.sequence)  # noqa: PERF401 - what came before counts
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(caught.value) == "SHUTTING_DOWN"
    assert seen == list(range(1, len(seen) + 1))


async def test_a_watcher_without_events_knows_that_it_is_heard(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    await watch(trainer, (await create(trainer, spec(), job_id="warm-up")).name)
    worker = trainer.executor.started[0]
    worker.hold = "step-1"
    job = await create(trainer, spec())
    await worker.held.wait()
    last = (await trainer.stub.GetJob(pb.GetJobRequest(name=job.name))).job
    stream = trainer.stub.WatchJob(pb.WatchJobRequest(name=last.name, after_sequence=2))
    async with asyncio.timeout(20):
        await stream.initial_metadata()
    assert not stream.done()
    stream.cancel()
    worker.fail()


async def test_a_watcher_is_heard_only_by_a_trainer_whose_job_store_answers(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(trainer, RECORD)
    job = await create(trainer, spec())

    async def fail(*_: object) -> None:
        raise DatabaseUnavailable("the job store failed")

    for question in ("get", "last_sequence"):
        monkeypatch.setattr(JobStore, question, fail)
    client = TrainerClient(f"127.0.0.1:{trainer.server.port}")
    stream = client.watch_job(job.name, patience=0.5)
    async with asyncio.timeout(30):
        with pytest.raises(CallError, match="job store"):
            await asyncio.to_thread(list, stream)
    client.close()
    monkeypatch.undo()


async def test_a_base_that_cannot_be_served_gets_no_job(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(trainer, RECORD)
    monkeypatch.setitem(NOT_SERVED, BASE.architecture, "vLLM has no LoRA for it")
    for only_checked in (True, False):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(trainer, spec(), validate_only=only_checked)
        assert reason_of(caught.value) == "BASE_NOT_SERVABLE"
        assert "vLLM has no LoRA for it" in str(caught.value.details())


VERSION = f"{ACME}/adapters/voice/versions/20260102T030405-one-1"
WITH_WEIGHTS: dict[str, Any] = {"base_model_digest": BASE.digest, "alpha": 24.0, "use_rslora": True}


async def refused(trainer: Trainer, asked: job_pb2.JobSpec) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, asked)
    listed = await trainer.stub.ListJobs(pb.ListJobsRequest(parent=ACME))
    assert list(listed.jobs) == []
    return caught.value


def metadata(error: grpc.RpcError) -> dict[str, str]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return dict(info.metadata)


async def test_a_job_takes_the_shape_of_the_version_that_it_trains_on_from(
    trainer: Trainer,
) -> None:
    await upload(trainer, RECORD)
    await put_version(trainer.store, VERSION, **WITH_WEIGHTS)
    bare = await create(trainer, spec(from_version=VERSION, lora={"dropout": 0.1}))
    shape: dict[str, Any] = {
        "rank": 8,
        "alpha": 24,
        "target_modules": ["q_proj"],
        "use_rslora": True,
    }
    same = await create(trainer, spec(from_version=VERSION, lora={**shape, "dropout": 0.1}))
    other = f"{ACME}/adapters/other"
    elsewhere = await create(trainer, spec(from_version=VERSION, adapter=other))
    for job in (bare, same):
        got = (await trainer.stub.GetJob(pb.GetJobRequest(name=job.name))).job.spec
        assert got.from_version == VERSION
        assert got.lora == job_pb2.LoraConfig(**shape, dropout=0.1)
    await watch(trainer, elsewhere.name)
    assignment = trainer.executor.started[0].assignment
    assert (assignment.from_version, assignment.parent_version) == (VERSION, VERSION)
    assert (assignment.lora.rank, assignment.lora.alpha) == (8, 24)
    assert (await create(trainer, spec())).spec.from_version == ""


@pytest.mark.parametrize(
    ("lora", "field", "value", "of_version"),
    [
        ({"rank": 16}, "rank", "16", "8"),
        ({"rank": 0}, "rank", "0", "8"),
        ({"alpha": 24.000001}, "alpha", "24.000001", "24"),
        ({"target_modules": ["q_proj", "v_proj"]}, "target_modules", "q_proj,v_proj", "q_proj"),
    ],
)
async def test_a_job_that_asks_for_another_shape_than_the_version_has_is_refused(
    trainer: Trainer, lora: dict[str, Any], field: str, value: str, of_version: str
) -> None:
    await upload(trainer, RECORD)
    await put_version(trainer.store, VERSION, **WITH_WEIGHTS)
    error = await refused(trainer, spec(from_version=VERSION, lora=lora))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "LORA_MISMATCH"
    found, description = violation(error)
    assert found == f"job.spec.lora.{field}"
    assert f"{value} is asked for, and {VERSION} has {of_version};" in description
    told = metadata(error)
    assert (told["value"], told["version_value"]) == (value, of_version)


async def test_rslora_is_not_asked_of_a_version_without_it(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    await put_version(trainer.store, VERSION, base_model_digest=BASE.digest)
    error = await refused(trainer, spec(from_version=VERSION, lora={"use_rslora": True}))
    assert violation(error)[0] == "job.spec.lora.use_rslora"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rank": 4}, "has rank 4; jobs train [8, 16, 32, 64]"),
        ({"rank": 128}, "has rank 128; jobs train [8, 16, 32, 64]"),
        ({"alpha": 0.0}, "has alpha 0; jobs train with one above 0 and at most 1024"),
        ({"alpha": 1025.0}, "has alpha 1025;"),
    ],
)
async def test_an_imported_version_that_no_job_could_have_made_is_refused(
    trainer: Trainer, change: dict[str, Any], text: str
) -> None:
    await upload(trainer, RECORD)
    await put_version(trainer.store, VERSION, **{"base_model_digest": BASE.digest, **change})
    error = await refused(trainer, spec(from_version=VERSION))
    assert reason_of(error) == "VERSION_NOT_TRAINABLE"
    found, description = violation(error)
    assert found == "job.spec.from_version"
    assert text in description


async def test_a_job_that_names_no_base_takes_that_of_its_version(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    changes = {**WITH_WEIGHTS, "base_model_digest": OTHER.digest}
    await put_version(trainer.store, VERSION, **changes)
    error = await refused(trainer, spec(from_version=VERSION, base_model=BASE.name))
    told = metadata(error)
    assert reason_of(error) == "BASE_MISMATCH"
    assert (told["version_base_digest"], told["base_digest"]) == (OTHER.digest, BASE.digest)
    job = await create(trainer, spec(from_version=VERSION))
    assert job.spec.base_model == OTHER.name
    await watch(trainer, job.name)
    assert trainer.executor.started[-1].assignment.base_model_digest == OTHER.digest


async def test_a_version_whose_base_serving_lacks_is_refused_for_that(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    changes = {**WITH_WEIGHTS, "base_model_digest": OTHER.digest}
    await put_version(trainer.store, VERSION, **changes)
    await write_profile(trainer.store, make_profile(BASE))
    error = await refused(trainer, spec(from_version=VERSION))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(error) == "BASE_MISMATCH"
    assert "serving has other base models" in str(error.details())


async def test_a_version_of_another_base_is_refused_with_both_digests(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    other = (await put_version(trainer.store, VERSION)).base_model_digest
    error = await refused(trainer, spec(from_version=VERSION))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "BASE_MISMATCH"
    assert violation(error)[0] == "job.spec.from_version"
    told = metadata(error)
    assert (told["version_base_digest"], told["base_digest"]) == (other, BASE.digest)


async def test_another_tenant_s_version_is_as_if_it_were_not(trainer: Trainer) -> None:
    """Told in the same words as one that is nowhere, although this caller may act for both."""
    await upload(trainer, RECORD)
    theirs = VERSION.replace("acme", "globex")
    await put_version(trainer.store, theirs, **WITH_WEIGHTS)
    told = []
    for name in (theirs, VERSION):
        error = await refused(trainer, spec(from_version=name))
        assert metadata(error) == {"name": name}
        told.append((error.code(), reason_of(error), error.details().replace(name, "")))  # type: ignore[union-attr]
    assert told[0] == told[1]
    assert told[0][:2] == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")


async def test_a_version_that_is_deleted_or_not_whole_is_refused(trainer: Trainer) -> None:
    await upload(trainer, RECORD)
    weights = f"{VERSION}/{ADAPTER_WEIGHTS}"

    async def reason(**fields: Any) -> str:
        return reason_of(await refused(trainer, spec(from_version=VERSION, **fields)))

    manifest = await put_version(trainer.store, VERSION, **WITH_WEIGHTS)
    await trainer.store.put(weights, b"cut")
    assert await reason() == "DIGEST_MISMATCH"
    await trainer.store.delete(weights)
    assert await reason() == "DIGEST_MISMATCH"
    without = manifest.model_copy(update={"files": {}})
    await trainer.store.put(f"{VERSION}/{MANIFEST}", without.to_json())
    assert await reason() == "MANIFEST_INVALID"
    await trainer.store.put(f"{VERSION}/{MANIFEST}", b"{}")
    assert await reason() == "MANIFEST_INVALID"
    await AdapterRegistry(trainer.store).bury(VersionName.parse(VERSION), "a test")
    assert await reason() == "VERSION_DELETED"
    error = await refused(trainer, spec(from_version="voice@latest"))
    assert violation(error)[0] == "job.spec.from_version"


async def test_a_request_id_tells_what_was_left_to_the_version(trainer: Trainer) -> None:
    """The default rank is 16; left out it is the version's, and a repeat needs no version."""
    await upload(trainer, RECORD)
    await put_version(trainer.store, VERSION, rank=16, base_model_digest=BASE.digest)
    first = await create(trainer, spec(from_version=VERSION), request_id="r")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(trainer, spec(from_version=VERSION, lora={"rank": 16}), request_id="r")
    assert reason_of(caught.value) == "REQUEST_ID_REUSED"
    await AdapterRegistry(trainer.store).bury(VersionName.parse(VERSION), "a test")
    again = await create(trainer, spec(from_version=VERSION), request_id="r")
    assert again.name == first.name

"""Feedback over real sockets: two replicas record, the trainer lists, imports, trains, erases."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from serving_svc.api.inference_servicer import InferenceServicer
from serving_svc.feedback.quota import DailyQuota
from serving_svc.feedback.redaction import Redactor
from serving_svc.feedback.service import FeedbackRecorder
from serving_svc.metrics import ServingMetrics
from tailorbird.call_error import CallError
from tailorbird.client import ServingClient, TrainerClient, feedback_request
from tailorbird.feedback import Answer, FeedbackStore, Tool, ToolFunction, feedback_key
from tailorbird.names import FeedbackName
from tailorbird.object_store import ObjectStore, open_store
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.modes import Mode
from tailorbird.registry import AdapterRegistry
from tailorbird.rpc.auth import Caller, TokenVerifier
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.status import reason_of
from tailorbird.serving.v1 import inference_service_pb2 as serving_pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as serving_grpc
from tailorbird.tuning.v1 import dataset_pb2, feedback_pb2, job_pb2
from tests.acceptance.trainer_process import trainer as trainer_process
from tests.integration.test_streams import Scripted
from tests.integration.test_trainer_api import ACME, Trainer, trainer, violation
from tests.unit.tailorbird.feedback_values import ADAPTER, NOON, VERSION, a_name, a_record
from tests.unit.trainer_svc.engine.tiny import make_base
from tests.unit.trainer_svc.values import put_version

__all__ = ["trainer"]

SECRET = "jane.roe@web.de"
GLOBEX = "tenants/globex/adapters/support/versions/20260101T000000-job-1"


@pytest.fixture(scope="module")
def redactor() -> Iterator[Redactor]:
    """One for all replicas: each takes seconds to start."""
    redactor = Redactor(partial(load_scanner, scan_options()), Mode.REDACT)
    yield redactor
    redactor.close()


@dataclass
class Replicas:
    addresses: list[str]
    store: ObjectStore

    def client(self, replica: int = 0, token: str = "acme") -> ServingClient:
        return ServingClient(self.addresses[replica], token)


def a_replica(store: ObjectStore, redactor: Redactor) -> RpcServer:
    """What serving has of RecordFeedback, without an engine."""
    registry = CollectorRegistry()
    callers = {
        hashlib.sha256(name.encode()).hexdigest(): Caller(name, frozenset({name}))
        for name in ("acme", "globex")
    }
    server = RpcServer("127.0.0.1", 0, TokenVerifier(callers), registry, [])
    records = FeedbackStore(store)
    recorder = FeedbackRecorder(
        records,
        AdapterRegistry(store),
        redactor,
        DailyQuota(records, 30),
        ServingMetrics(registry).feedback,
        tenants={"acme"},
        max_record_bytes=4096,
    )
    servicer = InferenceServicer(
        Scripted(), recorder, serving_pb.GetServerInfoResponse(), 100, max_feedback_bytes=4096
    )
    serving_grpc.add_InferenceServiceServicer_to_server(servicer, server.grpc)
    return server


@pytest.fixture
async def replicas(tmp_path: Path, redactor: Redactor) -> AsyncIterator[Replicas]:
    (tmp_path / "data").mkdir()
    store = open_store((tmp_path / "data" / "store").as_uri())
    await put_version(store, str(VERSION))
    await put_version(store, GLOBEX)
    made = [a_replica(store, redactor) for _ in range(3)]
    for server in made:
        await server.start()
    yield Replicas([f"127.0.0.1:{server.port}" for server in made], store)
    for server in made:
        await server.stop(0)


def a_request(number: int = 1, **changes: Any) -> serving_pb.RecordFeedbackRequest:
    values: dict[str, Any] = {
        "version": str(VERSION),
        "text": f"order {number}? I am {SECRET}",
        "answer": f"{number} is lost",
        "correction": f"{number} is on its way",
        "rating": serving_pb.RATING_BAD,
        "labels": {"channel": "chat"},
        "request_id": f"request-{number}",
    }
    return feedback_request(**(values | changes))


async def recorded(
    client: ServingClient, *requests: serving_pb.RecordFeedbackRequest
) -> list[serving_pb.RecordFeedbackResponse]:
    """A client waits for its answers in a thread: the servers are in this one."""
    return await asyncio.to_thread(lambda: [client.record_feedback(one) for one in requests])


async def failed(
    replicas: Replicas,
    request: serving_pb.RecordFeedbackRequest,
    token: str = "acme",
    replica: int = 0,
) -> CallError:
    with pytest.raises(CallError) as caught:
        await recorded(replicas.client(replica, token), request)
    return caught.value


async def stored_names(store: ObjectStore, tenant: str = "acme") -> set[str]:
    return {info.key async for info in store.objects(f"tenants/{tenant}/feedback")}


async def test_two_replicas_that_record_at_once_make_one_record_of_each_request(
    replicas: Replicas,
) -> None:
    with capture_logs() as logs:
        first, second = await asyncio.gather(
            recorded(replicas.client(0), *map(a_request, range(20))),
            recorded(replicas.client(1), *map(a_request, range(10, 30))),
        )
    assert [one.name for one in first[10:]] == [one.name for one in second[:10]]
    names = {one.name for one in (*first, *second)}
    assert len(names) == 30
    keys = {feedback_key(FeedbackName.parse(name)) for name in names}
    assert await stored_names(replicas.store) == keys
    assert all(dict(one.redactions) == {"email": 1} for one in (*first, *second))
    for key in keys:
        assert SECRET.encode() not in await replicas.store.get(key)
    assert SECRET not in repr(logs)
    # One that records for the first time counts what the others have stored.
    error = await failed(replicas, a_request(31), replica=2)
    assert (error.code, error.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "FEEDBACK_PER_DAY",
    )
    (quota,) = error.quotas
    assert (quota.subject, quota.quota) == ("tenants/acme", "feedback_records_per_day")
    assert error.retry_after
    assert 0 < error.retry_after <= 24 * 3600


async def test_what_is_refused_says_why_and_nothing_is_kept(replicas: Replicas) -> None:
    off = await failed(replicas, a_request(version=GLOBEX), token="globex")
    assert (off.code, off.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FEEDBACK_OFF")
    assert off.metadata["setting"] == "TAILORBIRD_FEEDBACK_TENANTS"
    foreign = await failed(replicas, a_request(version=GLOBEX))
    assert (foreign.code, foreign.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    missing = await failed(replicas, a_request(version=f"{str(VERSION)[:-1]}2"))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    for changes, field in (
        ({"version": str(ADAPTER)}, "version"),
        ({"labels": {"9": ""}}, "labels"),
        ({"text": "x" * 4096}, "request"),
    ):
        wrong = await failed(replicas, a_request(**changes))
        assert wrong.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in wrong.violations] == [field]
    assert not await stored_names(replicas.store) | await stored_names(replicas.store, "globex")
    await recorded(replicas.client(), a_request())
    taken = await failed(replicas, a_request(answer="another"))
    assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "FEEDBACK_EXISTS")


async def test_the_client_s_own_request_id_makes_a_repetition_one_record(
    replicas: Replicas,
) -> None:
    request = a_request(request_id="")
    again = await recorded(replicas.client(), request, request)
    assert again[0] == again[1]
    assert len(await stored_names(replicas.store)) == 1


async def listed(
    trainer: Trainer, **fields: Any
) -> tuple[list[feedback_pb2.Feedback], list[feedback_pb2.ListFeedbackResponse]]:
    request = feedback_pb2.ListFeedbackRequest(**({"parent": str(ADAPTER)} | fields))
    pages = []
    while True:
        pages.append(await trainer.stub.ListFeedback(request))
        request.page_token = pages[-1].next_page_token
        if not request.page_token:
            return [one for page in pages for one in page.feedback], pages


def at(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message


async def test_feedback_is_listed_by_pages_as_it_was_recorded(trainer: Trainer) -> None:
    feedback = FeedbackStore(trainer.store)
    function = {"name": "f", "arguments": "{}"}
    calling = {"content": "", "tool_calls": [{"id": "c", "function": function}]}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", **calling},
        {"role": "tool", "tool_call_id": "c", "content": "t"},
        {"role": "critic", "content": "of a later release"},
    ]
    tools = [
        {"function": {"name": "f", "parameters": {"type": "object"}}},
        {"function": {"name": "g"}},
    ]
    whole = a_record(
        9,
        NOON,
        rating="bad",
        correction=calling,
        messages=messages,
        tools=tools,
        labels={"channel": "chat"},
        redactions={"email": 2},
    )
    await feedback.create(whole)
    for number in range(5):
        await feedback.create(a_record(number, NOON - number * timedelta(days=1), rating="good"))
    await feedback.create(a_record(7, NOON - timedelta(days=9), messages=(), prompt="Dear"))
    found, pages = await listed(trainer, page_size=2)
    assert len(pages) == 4
    assert len({one.name for one in found}) == 7
    assert [one.create_time.seconds for one in found] == sorted(
        (one.create_time.seconds for one in found), reverse=True
    )
    assert found[-1].prompt == "Dear"
    (corrected,), _ = await listed(trainer, has_correction=True)
    call = serving_pb.ToolCall(id="c", name="f", arguments_json="{}")
    assert corrected == feedback_pb2.Feedback(
        name=whole.name,
        version=whole.version,
        route_generation=3,
        create_time=at(NOON),
        subject="billing",
        chat=serving_pb.Chat(
            messages=[
                serving_pb.Message(role=serving_pb.ROLE_SYSTEM, content="s"),
                serving_pb.Message(role=serving_pb.ROLE_USER, content="u"),
                serving_pb.Message(role=serving_pb.ROLE_ASSISTANT, tool_calls=[call]),
                serving_pb.Message(role=serving_pb.ROLE_TOOL, content="t", tool_call_id="c"),
                serving_pb.Message(content="of a later release"),
            ],
            tools=[
                serving_pb.Tool(name="f", parameters_json_schema='{"type": "object"}'),
                serving_pb.Tool(name="g"),
            ],
        ),
        answer=serving_pb.FeedbackAnswer(text="On its way."),
        correction=serving_pb.FeedbackAnswer(tool_calls=[call]),
        rating=serving_pb.RATING_BAD,
        labels={"channel": "chat"},
        redactions={"email": 2},
    )
    good, _ = await listed(trainer, rating=serving_pb.RATING_GOOD, has_correction=False)
    assert len(good) == 5
    some, _ = await listed(
        trainer, since=at(NOON - timedelta(days=2)), until=at(NOON - timedelta(days=1))
    )
    assert [one.name for one in some] == [str(a_name(2, NOON - timedelta(days=2)))]


async def test_what_cannot_be_read_is_named_and_can_be_erased(trainer: Trainer) -> None:
    await FeedbackStore(trainer.store).create(a_record(1))
    for number in range(2, 103):
        await trainer.store.put(feedback_key(a_name(number)), b"\0")
    found, (page,) = await listed(trainer, page_size=1000)
    assert [one.name for one in found] == [str(a_name(1))]
    assert (page.unreadable_count, len(page.unreadable)) == (101, 100)
    for name in (page.unreadable[0], str(a_name(1))):
        await trainer.stub.DeleteFeedback(feedback_pb2.DeleteFeedbackRequest(name=name))
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await trainer.stub.DeleteFeedback(feedback_pb2.DeleteFeedbackRequest(name=name))
        assert reason_of(gone.value) == "FEEDBACK_NOT_FOUND"
    found, (page,) = await listed(trainer, page_size=1000)
    assert (found, page.unreadable_count) == ([], 100)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parent": ACME}, "parent"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"rating": 9}, "rating"),
        ({"since": Timestamp(seconds=2**50)}, "since"),
        ({"since": at(NOON), "until": at(NOON)}, "until"),
    ],
)
async def test_a_listing_that_cannot_be_is_told_which_field(
    trainer: Trainer, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await listed(trainer, **fields)
    assert violation(caught.value)[0] == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parent": "acme"}, "parent"),
        ({"dataset_id": "A"}, "dataset_id"),
        ({"adapter": ACME}, "adapter"),
        ({"adapter": "tenants/globex/adapters/support"}, "adapter"),
        ({"rule": 9}, "rule"),
        ({"format": 9}, "format"),
        ({"format": dataset_pb2.DATASET_FORMAT_TEXT}, "format"),
        ({"personal_data": 99}, "personal_data"),
        ({"until": Timestamp(seconds=-(2**50))}, "until"),
    ],
)
async def test_an_import_that_cannot_be_is_told_which_field(
    trainer: Trainer, fields: dict[str, Any], field: str
) -> None:
    values = {"parent": ACME, "dataset_id": "made", "adapter": str(ADAPTER)}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.stub.ImportFeedback(feedback_pb2.ImportFeedbackRequest(**(values | fields)))
    assert violation(caught.value)[0] == field


async def test_a_listed_schema_is_no_longer_than_a_stored_one(trainer: Trainer) -> None:
    function = ToolFunction(name="find", parameters={"title": "\U0001f426" * 1000})
    record = a_record(tools=(Tool(function=function),))
    await FeedbackStore(trainer.store).create(record)
    ((found,), _) = await listed(trainer)
    assert json.loads(found.chat.tools[0].parameters_json_schema) == function.parameters
    assert found.ByteSize() < len(record.model_dump_json().encode())


async def test_feedback_that_no_dataset_may_have_is_named_by_its_adapter(trainer: Trainer) -> None:
    record = a_record(rating="good", answer=Answer(content="jane.roe@web.de"))
    await FeedbackStore(trainer.store).create(record)
    request = feedback_pb2.ImportFeedbackRequest(
        parent=ACME,
        dataset_id="made",
        adapter=str(ADAPTER),
        personal_data=dataset_pb2.PERSONAL_DATA_MODE_REFUSE,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.stub.ImportFeedback(request)
    assert reason_of(caught.value) == "PERSONAL_DATA_FOUND"
    assert violation(caught.value) == ("adapter", "personal data in 1 records: email 1× (lines 1)")


async def test_an_import_accounts_for_every_record(trainer: Trainer) -> None:
    feedback = FeedbackStore(trainer.store)
    for number, rating in enumerate(("good", "bad", "good")):
        await feedback.create(a_record(number, rating=rating))
    await trainer.store.put(feedback_key(a_name(5)), b"{}")
    request = feedback_pb2.ImportFeedbackRequest(
        parent=ACME, dataset_id="made", adapter=str(ADAPTER)
    )
    made = await trainer.stub.ImportFeedback(request)
    assert (made.read_count, made.imported_count, made.other_count) == (4, 2, 1)
    assert (made.vanished_count, made.unusable_count) == (0, 1)
    assert made.unusable[0].name == str(a_name(5))
    assert made.dataset.name == f"{ACME}/datasets/made"
    assert made.dataset.record_count == made.dataset.report.records == 2
    request.rule = feedback_pb2.FEEDBACK_RULE_CORRECTIONS
    with pytest.raises(grpc.aio.AioRpcError) as none:
        await trainer.stub.ImportFeedback(request)
    assert none.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(none.value) == "NO_FEEDBACK"


async def test_a_job_trains_on_what_was_recorded_and_what_is_erased_is_gone(
    replicas: Replicas, tmp_path: Path
) -> None:
    """The trainer is a process of its own, with a real engine on a tiny base."""
    client = replicas.client()
    names = [one.name for one in await recorded(client, *map(a_request, range(20)))]
    base = make_base(tmp_path / "base")
    settings = {"BASE_MODEL": str(base), "THREADS": "1"}
    with trainer_process(tmp_path / "data", "trainer_svc", settings=settings) as (_, address):
        await asyncio.to_thread(train, TrainerClient(address), names)
    assert not await stored_names(replicas.store)


def train(trainer: TrainerClient, names: list[str]) -> None:
    pages = trainer.list_feedback(str(ADAPTER), has_correction=True)
    assert {one.name for page in pages for one in page.feedback} == set(names)
    since = datetime.now(UTC) - timedelta(days=1)
    made = trainer.import_feedback(ACME, "corrected", str(ADAPTER), since=since)
    assert (made.imported_count, made.dataset.record_count) == (20, 20)
    spec = job_pb2.JobSpec(
        training_dataset=made.dataset.name,
        adapter=str(ADAPTER),
        promotion_policy=job_pb2.PROMOTION_POLICY_MANUAL,
        lora=job_pb2.LoraConfig(rank=8),
        hyperparameters=job_pb2.Hyperparameters(epochs=1, batch_tokens=64),
    )
    job = trainer.create_job(ACME, spec, job_id="from-feedback")
    events = list(trainer.watch_job(job.name))
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    (data,) = [one.prepared.training for one in events if one.HasField("prepared")]
    assert data.kept == 20
    for name in names:
        trainer.delete_feedback(name)
    assert [one for page in trainer.list_feedback(str(ADAPTER)) for one in page.feedback] == []
    trainer.close()


async def test_an_imported_record_says_which_feedback_it_was(trainer: Trainer) -> None:
    await FeedbackStore(trainer.store).create(a_record(1, rating="good"))
    request = feedback_pb2.ImportFeedbackRequest(
        parent=ACME, dataset_id="made", adapter=str(ADAPTER)
    )
    made = (await trainer.stub.ImportFeedback(request)).dataset
    line = json.loads(await trainer.store.get(f"{made.name}/data-{made.sha256}.jsonl"))
    assert line["metadata"] == {"feedback": str(a_name(1)), "version": VERSION.version}

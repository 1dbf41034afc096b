"""What the clients have beside calls: uploads of all kinds, waiting, typed errors, raw stubs."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from tailorbird import channel, client, errors
from tailorbird.chat_request import ChatOptions, chat_request
from tailorbird.client import AsyncServingClient, AsyncTrainerClient, ServingClient, TrainerClient
from tailorbird.rpc import server as rpc_server
from tailorbird.rpc.status import stored_status
from tailorbird.serving.v1 import inference_service_pb2 as serving_pb
from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning_pb
from tests.integration.blocking import blocking
from tests.integration.scripted_services import ADAPTER, Script, a_job_that_succeeds, state

JOB = "tenants/acme/jobs/one"
RECORD = {"prompt": "größer", "completion": "ja"}


@pytest.fixture(params=["threads", "asyncio"])
def trainer(port: int, request: pytest.FixtureRequest) -> Iterator[TrainerClient]:
    address = f"localhost:{port}"
    if request.param == "threads":
        with TrainerClient(address, "secret") as one:
            yield one
    else:
        with blocking(lambda: AsyncTrainerClient(address, "secret")) as twin:
            yield cast("TrainerClient", twin)


def upload(trainer: TrainerClient, data: Any) -> int:
    return trainer.upload_dataset("tenants/acme", "chats", data).size_bytes


def test_a_dataset_is_uploaded_from_whatever_holds_it(
    trainer: TrainerClient, script: Script, tmp_path: Path
) -> None:
    line = json.dumps(RECORD, ensure_ascii=False) + "\n"
    path = tmp_path / "chats.jsonl"
    path.write_text(line * 3, encoding="utf-8")
    size = 3 * len(line.encode())
    assert upload(trainer, path) == upload(trainer, str(path)) - size == size
    script.received = 0
    assert upload(trainer, io.BytesIO(path.read_bytes())) == size
    script.received = 0
    with path.open(encoding="utf-8") as file:
        assert upload(trainer, file) == size
    script.received = 0
    assert upload(trainer, (RECORD for _ in range(3))) == size
    script.received = 0
    assert upload(trainer, [line, line.encode(), line.rstrip()]) == size
    told = [request.HasField("size_bytes") for request in script.requests]
    assert told == [True, True, False, False, False, False]


def test_a_dataset_is_uploaded_from_a_pipe(
    trainer: TrainerClient, script: Script, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    line = json.dumps(RECORD).encode() + b"\n"
    writer = threading.Thread(target=pipe.write_bytes, args=(line,))
    writer.start()
    assert upload(trainer, pipe) == len(line)
    writer.join()
    assert not script.requests[0].HasField("size_bytes")


def test_records_are_sent_in_chunks_however_large_one_is(
    trainer: TrainerClient, script: Script
) -> None:
    upload(trainer, [{"prompt": "x" * 5 * 2**20}, *[RECORD] * 1000])
    assert max(script.chunk_sizes) == 2**20
    assert len(script.chunk_sizes) == 6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param([RECORD, 7], "record 2 is of type int: a dict or a line is taken", id="type"),
        pytest.param([RECORD, "\ud800"], "record 2 is not UTF-8", id="half a character"),
        pytest.param([{"prompt": {1}}], "record 1 is not JSON: Object of type set", id="json"),
    ],
)
def test_what_is_no_record_ends_the_upload(
    trainer: TrainerClient, data: list[Any], message: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=message):
        upload(trainer, data)


def test_what_a_callers_iterable_raises_is_the_callers_again(trainer: TrainerClient) -> None:
    def records() -> Iterator[dict[str, str]]:
        yield RECORD
        raise LookupError("the cursor is gone")

    with pytest.raises(LookupError, match="the cursor is gone"):
        upload(trainer, records())


def test_an_upload_that_is_refused_says_why_before_all_is_read(
    trainer: TrainerClient, script: Script
) -> None:
    script.error = errors.AlreadyExists("the name is taken")
    drawn = 0

    def records() -> Iterator[dict[str, str]]:
        nonlocal drawn
        for drawn in range(2000):  # noqa: B007 - told to the test
            yield {"prompt": "x" * 2**20}

    with pytest.raises(client.AlreadyExists, match="the name is taken"):
        upload(trainer, records())
    assert drawn < 1999


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
def test_each_status_code_has_an_error_of_its_own(code: grpc.StatusCode) -> None:
    name = "".join(word.capitalize() for word in code.name.split("_"))
    error = client.CallError.from_status(rpc_status(code))
    assert type(error) is getattr(client, name)
    assert error.code is code


def rpc_status(code: grpc.StatusCode) -> Any:
    status = stored_status("SOME", "a message", {})
    status.code = code.value[0]
    return status


def test_a_failed_call_is_caught_by_its_kind(trainer: TrainerClient, script: Script) -> None:
    with pytest.raises(client.NotFound):
        trainer.get_dataset("tenants/acme/datasets/gone")
    script.error = errors.PatternTimedOut("card", 1)
    with pytest.raises(client.FailedPrecondition) as caught:
        trainer.get_job(JOB)
    assert caught.value.reason == "PATTERN_TIMED_OUT"


def test_a_job_is_waited_for(trainer: TrainerClient, script: Script) -> None:
    script.events = a_job_that_succeeds()
    script.breaks_after = [3]
    script.job.state = job_pb2.JOB_STATE_SUCCEEDED
    heard: list[int] = []
    job = trainer.wait_for_job(JOB, heard=lambda event: heard.append(event.sequence))
    assert job.name == JOB
    assert heard == list(range(1, 10))


def test_a_job_that_fails_is_an_error_with_its_reason(
    trainer: TrainerClient, script: Script
) -> None:
    script.events = [state(1, job_pb2.JOB_STATE_FAILED)]
    script.job.state = job_pb2.JOB_STATE_FAILED
    script.job.error.CopyFrom(stored_status("NO_EFFECT", "the adapter changes nothing", {}))
    with pytest.raises(client.JobFailed, match="the adapter changes nothing") as caught:
        trainer.wait_for_job(JOB)
    assert caught.value.reason == "NO_EFFECT"
    assert caught.value.job == script.job
    assert isinstance(caught.value, client.CallError)


def test_a_job_that_was_cancelled_is_an_error_too(trainer: TrainerClient, script: Script) -> None:
    script.events = [state(1, job_pb2.JOB_STATE_CANCELLED)]
    script.job.state = job_pb2.JOB_STATE_CANCELLED
    with pytest.raises(client.JobFailed) as caught:
        trainer.wait_for_job(JOB)
    assert caught.value.reason == "JOB_CANCELLED"


def test_a_job_of_which_nothing_is_told_any_more_is_not_taken_for_done(
    trainer: TrainerClient,
) -> None:
    with pytest.raises(client.Unavailable, match="JOB_STATE_RUNNING"):
        trainer.wait_for_job(JOB)


def test_waiting_ends_at_its_timeout_whatever_the_trainer_does(
    trainer: TrainerClient, script: Script
) -> None:
    script.error = errors.Unavailable("starting")
    with pytest.raises(client.DeadlineExceeded):
        trainer.wait_for_job(JOB, timeout=0.3)


def test_raw_stubs_carry_the_token_beside_what_a_caller_sends(port: int, script: Script) -> None:
    request = tuning_pb.GetJobRequest(name=JOB)
    with TrainerClient(f"localhost:{port}", "secret") as one:
        assert one.stub.GetJob(request, timeout=10, metadata=(("x-own", "1"),)).job.name == JOB
        answer, call = one.stub.GetJob.with_call(request, timeout=10)
        assert (answer.job.name, call.code()) == (JOB, grpc.StatusCode.OK)
        assert one.stub.GetJob.future(request, timeout=10).result().job.name == JOB
        script.error = errors.NotFound(JOB)
        with pytest.raises(grpc.RpcError) as caught:
            one.stub.GetJob(request, timeout=10)
        assert type(client.CallError.from_call(caught.value)) is client.NotFound
    assert {told["authorization"] for told in script.metadata} == {"Bearer secret"}
    assert script.metadata[0]["x-own"] == "1"


async def test_raw_stubs_for_asyncio_do_too(port: int, script: Script) -> None:
    async with AsyncServingClient(f"localhost:{port}", "secret") as one:
        request = serving_pb.StreamGenerateRequest(request=chat_request(ADAPTER, "hello"))
        texts = [piece.text async for piece in one.stub.StreamGenerate(request, timeout=10)]
    assert texts == ["Good ", "morning.", ""]
    assert script.metadata[0]["authorization"] == "Bearer secret"


async def test_one_loop_makes_many_calls_at_once(port: int, script: Script) -> None:
    async with AsyncServingClient(f"localhost:{port}") as one, asyncio.TaskGroup() as group:
        asked = [group.create_task(one.generate_text(ADAPTER, "hello")) for _ in range(20)]
    assert [task.result() for task in asked] == ["Good morning."] * 20


async def test_a_task_that_is_cancelled_ends_its_generation(port: int, script: Script) -> None:
    script.go_on.clear()
    first = asyncio.Event()
    async with AsyncServingClient(f"localhost:{port}") as one:

        async def read() -> None:
            async for _ in one.stream_text(ADAPTER, "hello"):
                first.set()

        task = asyncio.create_task(read())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(script.cancelled.wait, 10)
    script.go_on.set()


def test_a_message_that_no_service_takes_is_refused_here(port: int, script: Script) -> None:
    with (
        ServingClient(f"localhost:{port}") as one,
        pytest.raises(client.ResourceExhausted, match="Sent message larger"),
    ):
        one.generate_text(ADAPTER, "x" * (channel.SENT_BYTES + 1))
    assert script.requests == []


def test_a_client_asks_no_more_often_than_servers_allow_whether_a_connection_lives() -> None:
    assert rpc_server.MIN_PING_SECONDS < channel.KEEPALIVE_SECONDS
    assert dict(rpc_server._OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"] == 10_000


def test_the_options_of_a_text_are_those_of_a_request() -> None:
    keywords = chat_request.__kwdefaults__
    assert keywords is not None
    assert set(ChatOptions.__annotations__) == set(keywords)


def test_the_clients_import_grpc_and_protobuf_and_nothing_else() -> None:
    code = """
import grpc, sys
names = set(sys.modules)
import tailorbird.client
new = {name.partition(".")[0] for name in set(sys.modules) - names}
print(*(name for name in new - sys.stdlib_module_names if sys.modules[name].__spec__))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert set(result.stdout.split()) <= {"google", "grpc", "grpc_status", "tailorbird"}


def test_a_trainer_that_goes_away_after_the_last_event_is_waited_for(
    trainer: TrainerClient, script: Script
) -> None:
    script.events = a_job_that_succeeds()
    script.job.state = job_pb2.JOB_STATE_SUCCEEDED
    lost: list[client.CallError] = []
    back: list[bool] = []

    def heard(event: job_pb2.JobEvent) -> None:
        if event.sequence == 9:
            # More than a call alone is made again.
            script.errors = [errors.Unavailable("it starts again")] * 5

    job = trainer.wait_for_job(
        JOB, heard=heard, lost=lambda error, _: lost.append(error), back=lambda: back.append(True)
    )
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert [error.message for error in lost] == ["it starts again"] * 5
    assert back == [True]


def test_a_job_that_is_deleted_while_it_is_waited_for_is_not_found(
    trainer: TrainerClient, script: Script
) -> None:
    script.events = a_job_that_succeeds()

    def heard(event: job_pb2.JobEvent) -> None:
        if event.sequence == 9:
            script.error = errors.NotFound(JOB)

    with pytest.raises(client.NotFound):
        trainer.wait_for_job(JOB, heard=heard)


async def test_what_a_listener_raises_ends_the_watch(port: int) -> None:
    over: list[str] = []

    class Watched(AsyncTrainerClient):
        async def watch_job(self, name: str, *_: Any, **__: Any) -> AsyncGenerator[Any]:
            try:
                yield state(1, job_pb2.JOB_STATE_RUNNING)
            finally:
                over.append(name)

    def heard(_: job_pb2.JobEvent) -> None:
        raise LookupError("mine")

    async with Watched(f"localhost:{port}") as one:
        with pytest.raises(LookupError, match="mine"):
            await one.wait_for_job(JOB, heard=heard)
        assert over == [JOB]

"""InferenceService's edge over a real socket: what is written, who stalls, who leaves."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from serving_svc.api.inference_servicer import InferenceServicer
from serving_svc.feedback.service import Feedback
from serving_svc.generation.model import (
    Answer,
    Chunk,
    Completion,
    FinishReason,
    GenerationRequest,
    Usage,
)
from tailorbird.errors import FailedPrecondition, NotFound
from tailorbird.feedback import FeedbackRecord
from tailorbird.rpc.auth import Caller, TokenVerifier
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.status import reason_of
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as pb_grpc

SERVICE = "tailorbird.serving.v1.InferenceService"
LAST = Chunk("!", FinishReason.STOP, usage=Usage(3, 2))
REQUEST = pb.GenerateRequest(parent="tenants/acme", prompt="Hi")


class Scripted:
    """Generates what a test says, and remembers what was asked and whether it was closed."""

    def __init__(self) -> None:
        self.asked: list[GenerationRequest] = []
        self.chunks = [Chunk("a"), Chunk("b"), LAST]
        self.then: BaseException | None = None
        self.endless = ""
        self.running = 0
        self.closed = asyncio.Event()

    async def generate(self, request: GenerationRequest) -> Answer:
        self.asked.append(request)
        done = Completion("ab", FinishReason.STOP, token_ids=(5, 6))
        return Answer((done,), Usage(3, 2), None, 0)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        self.asked.append(request)
        self.running += 1
        try:
            for chunk in self.chunks:
                yield chunk
            while self.endless:
                yield Chunk(self.endless)
                await asyncio.sleep(0)
            if self.then is not None:
                raise self.then
        finally:
            self.running -= 1
            self.closed.set()


class NoFeedback:
    async def record(self, feedback: Feedback) -> FeedbackRecord:
        raise FailedPrecondition("off", reason="FEEDBACK_OFF")


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def verifier() -> TokenVerifier | None:
    return None


@pytest.fixture
async def server(scripted: Scripted, verifier: TokenVerifier | None) -> AsyncIterator[RpcServer]:
    server = RpcServer("127.0.0.1", 0, verifier, CollectorRegistry(), [SERVICE])
    servicer = InferenceServicer(
        scripted, NoFeedback(), pb.GetServerInfoResponse(), vocab_size=100, reader_patience=0.3
    )
    pb_grpc.add_InferenceServiceServicer_to_server(servicer, server.grpc)
    await server.start()
    yield server
    await server.stop(0)


@pytest.fixture
async def channel(server: RpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return pb_grpc.InferenceServiceStub(channel)


async def test_a_stream_is_what_was_generated(stub: Any, scripted: Scripted) -> None:
    request = pb.StreamGenerateRequest(request=REQUEST)
    found = [piece async for piece in stub.StreamGenerate(request, timeout=60)]
    assert [piece.text for piece in found] == ["a", "b", "!"]
    assert found[-1].finish_reason == pb.FINISH_REASON_STOP
    assert found[-1].usage.completion_tokens == 2
    (asked,) = scripted.asked
    assert not asked.final_only
    assert asked.deadline is not None
    # gRPC rounds a timeout up, and counts it by the wall clock.
    assert 0 < asked.deadline - time.monotonic() < 90
    assert scripted.running == 0


async def test_a_unary_call_asks_for_the_end_only(stub: Any, scripted: Scripted) -> None:
    answer = await stub.Generate(REQUEST)
    assert (answer.text, list(answer.token_ids)) == ("ab", [])
    assert scripted.asked[0].final_only
    assert scripted.asked[0].deadline is None
    request = pb.GenerateRequest(parent="tenants/acme", prompt="Hi")
    request.sampling.return_token_ids = True
    assert list((await stub.Generate(request)).token_ids) == [5, 6]


async def test_an_error_ends_a_stream_with_its_status(stub: Any, scripted: Scripted) -> None:
    scripted.chunks, scripted.then = [Chunk("a")], NotFound("tenants/acme/adapters/x")
    found = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for piece in stub.StreamGenerate(pb.StreamGenerateRequest(request=REQUEST)):
            found.append(piece.text)  # noqa: PERF401 - what came before the error counts
    assert (found, caught.value.code()) == (["a"], grpc.StatusCode.NOT_FOUND)


async def test_a_reader_who_takes_nothing_ends_the_generation(
    stub: Any, scripted: Scripted
) -> None:
    scripted.endless = "x" * 10_000
    call = stub.StreamGenerate(pb.StreamGenerateRequest(request=REQUEST))
    assert (await call.read()).text == "a"
    await asyncio.wait_for(scripted.closed.wait(), 60)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert reason_of(caught.value) == "READER_STALLED"


async def test_a_slow_reader_who_goes_on_is_waited_for(stub: Any, scripted: Scripted) -> None:
    """The generation itself pauses for longer than a reader may."""
    scripted.chunks = [Chunk("a")]
    go_on = asyncio.Event()

    async def stream(request: GenerationRequest) -> AsyncGenerator[Chunk]:
        yield Chunk("a")
        await go_on.wait()
        yield LAST

    scripted.stream = stream  # type: ignore[method-assign]
    call = stub.StreamGenerate(pb.StreamGenerateRequest(request=REQUEST))
    assert (await call.read()).text == "a"
    # Two looks of the writer's timer, which must not count this as the reader's.
    await asyncio.sleep(0.7)
    go_on.set()
    assert (await call.read()).finish_reason == pb.FINISH_REASON_STOP
    assert await call.code() is grpc.StatusCode.OK


async def test_calls_that_are_cancelled_leave_nothing(stub: Any, scripted: Scripted) -> None:
    scripted.endless = "x"
    with capture_logs() as logs:
        for _ in range(20):
            calls = [
                stub.StreamGenerate(pb.StreamGenerateRequest(request=REQUEST)) for _ in range(25)
            ]
            for index, call in enumerate(calls):
                if index % 2:
                    await call.read()
                call.cancel()
        while scripted.running:
            scripted.closed.clear()
            await asyncio.wait_for(scripted.closed.wait(), 30)
    assert [log for log in logs if log["log_level"] == "error"] == []
    scripted.endless = ""
    assert (await stub.Generate(REQUEST)).text == "ab"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.GenerateRequest(adapter="tenants/acme/adapters/süß", prompt="Hi"), "INVALID_NAME"),
        (
            pb.GenerateRequest(
                parent="tenants/acme", chat=pb.Chat(messages=[pb.Message()] * 1_000_000)
            ),
            "INVALID_ARGUMENT",
        ),
        (
            pb.GenerateRequest(
                parent="tenants/acme",
                prompt="Hi",
                sampling=pb.SamplingParameters(stop=["x"] * 10_000),
            ),
            "INVALID_ARGUMENT",
        ),
    ],
    ids=["adapter that is not ASCII", "a million empty messages", "10,000 stop strings"],
)
async def test_bad_input_is_refused_at_the_edge(
    stub: Any, scripted: Scripted, request_: pb.GenerateRequest, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value) == reason
    assert scripted.asked == []


class TestGateway:
    """A caller who holds one tenant, behind a gateway that rewrites the model."""

    @pytest.fixture
    def verifier(self) -> TokenVerifier:
        digest = hashlib.sha256(b"t1").hexdigest()
        return TokenVerifier({digest: Caller("billing", frozenset({"acme"}))})

    def metadata(self, **more: str) -> tuple[tuple[str, str], ...]:
        names = {name.replace("_", "-"): value for name, value in more.items()}
        return (("authorization", "Bearer t1"), *names.items())

    async def test_the_rewrite_says_who_answers(self, stub: Any, scripted: Scripted) -> None:
        chosen = "tenants/acme/adapters/chosen"
        metadata = self.metadata(x_llm_d_model_name_rewrite=chosen)
        # The rewrite takes the place of the name: what it replaces may be another tenant's.
        request = pb.GenerateRequest(adapter="tenants/globex/adapters/alias", prompt="Hi")
        await stub.Generate(request, metadata=metadata)
        async for _ in stub.StreamGenerate(
            pb.StreamGenerateRequest(request=request), metadata=metadata
        ):
            pass
        assert [str(asked.adapter) for asked in scripted.asked] == [chosen, chosen]

    @pytest.mark.parametrize("name", ["x_llm_d_model_name_rewrite", "x_tailorbird_adapter"])
    async def test_no_metadata_opens_another_tenant(
        self, stub: Any, scripted: Scripted, name: str
    ) -> None:
        metadata = self.metadata(**{name: "tenants/globex/adapters/secret"})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(pb.GenerateRequest(prompt="Hi"), metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert scripted.asked == []

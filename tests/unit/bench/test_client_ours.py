from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from bench.serving.client_ours import OursClient
from bench.serving.load import RequestFailed
from bench.serving.plan import Answer, Ask
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as inference_grpc

_ASK = Ask("t-0001", True, "Hello", 3)
_LAST = pb.StreamGenerateResponse(
    text="bc",
    finish_reason=pb.FINISH_REASON_LENGTH,
    usage=pb.Usage(prompt_tokens=5, completion_tokens=3),
)


class _Service(inference_grpc.InferenceServiceServicer):
    def __init__(self) -> None:
        self.messages = [pb.StreamGenerateResponse(text="a"), pb.StreamGenerateResponse(), _LAST]
        self.requests: list[pb.GenerateRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.refused = False

    async def Generate(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the bench streams")

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the bench does not ask")

    async def RecordFeedback(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the bench keeps nothing")

    async def StreamGenerate(self, request: Any, context: Any) -> Any:
        self.requests.append(request.request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refused:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no slot")
        for message in self.messages:
            yield message


@asynccontextmanager
async def _serving(service: _Service) -> AsyncIterator[OursClient]:
    server = grpc.aio.server()
    inference_grpc.add_InferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = OursClient(f"127.0.0.1:{port}", "secret")
    try:
        yield client
    finally:
        await client.close()
        await server.stop(None)


async def test_times_are_those_of_text_and_tokens_those_of_the_usage() -> None:
    service, answer = _Service(), Answer("only")
    async with _serving(service) as client:
        await client.ask(_ASK, answer)

    assert len(answer.times) == 2
    assert answer.tokens == 3
    request = service.requests[0]
    assert request.adapter == "tenants/t-0001/adapters/bench"
    assert request.prompt == "Hello"
    assert request.sampling == pb.SamplingParameters(temperature=0, max_tokens=3, ignore_eos=True)
    assert service.metadata[0]["authorization"] == "Bearer secret"
    assert service.metadata[0]["x-tailorbird-adapter"] == request.adapter


async def test_the_base_is_asked_in_the_tenants_name() -> None:
    service = _Service()
    async with _serving(service) as client:
        await client.ask(Ask("t-0001", False, "Hello", 3), Answer("only"))

        await client.ask(Ask("t-0001", False, "Hello", 3, chat=True), Answer("only"))

    assert service.requests[0].parent == "tenants/t-0001"
    assert [message.content for message in service.requests[1].chat.messages] == ["Hello"]


async def test_a_refusal_is_told() -> None:
    service = _Service()
    service.refused = True
    async with _serving(service) as client:
        with pytest.raises(RequestFailed, match=r"RESOURCE_EXHAUSTED.*no slot"):
            await client.ask(_ASK, Answer("only"))


async def test_a_stream_without_its_usage_has_failed() -> None:
    service = _Service()
    service.messages = service.messages[:1]
    async with _serving(service) as client:
        with pytest.raises(RequestFailed, match="without its usage"):
            await client.ask(_ASK, Answer("only"))

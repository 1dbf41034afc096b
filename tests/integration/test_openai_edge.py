"""OpenAI's routes on a real socket: what is written, what breaks a stream, who leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import httpx
import openai
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from serving_svc.generation.model import (
    Answer,
    Chunk,
    Completion,
    EngineDied,
    FinishReason,
    GenerationRequest,
    TokenLogprob,
    TokenLogprobs,
    ToolCall,
    Usage,
)
from serving_svc.http.convert_request import Served
from serving_svc.http.models import Models
from serving_svc.http.routes import OpenAiRoutes
from tailorbird.errors import InvalidArgument, NotFound, ResourceExhausted
from tailorbird.http.server import HttpServer
from tailorbird.names import AdapterName, VersionName
from tailorbird.rpc.auth import Caller, TokenVerifier
from tests.integration.test_streams import Scripted

TOKEN = "let-me-in"
VERSION = VersionName.parse("tenants/acme/adapters/support/versions/20261122T100000-job-1")
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
USAGE = Usage(3, 2)
CALL = ToolCall("call_1", "weather", '{"city":"Rome"}')
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CHAT: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "Hi"}]}
STREAM: dict[str, Any] = CHAT | {"stream": True}
LOGPROBS = TokenLogprobs(
    TokenLogprob(5, "é", -0.5), (TokenLogprob(5, "é", -0.5), TokenLogprob(6, "\ufffd", -1.5))
)


class OneAdapter:
    """A registry that knows nothing."""

    async def list_adapters(self, *_: Any) -> Any:
        return [], ""

    async def get_adapter(self, name: AdapterName) -> Any:
        raise NotFound(name)

    async def get_version(self, name: VersionName) -> Any:
        raise NotFound(name)


class Edge:
    """The routes on a port, what they generate, and what was counted."""

    def __init__(self) -> None:
        self.scripted = Scripted()
        self.registry = CollectorRegistry()
        digest = sha256(TOKEN.encode()).hexdigest()
        verifier = TokenVerifier({digest: Caller("acme", frozenset({"acme"}))})
        self.server = HttpServer("127.0.0.1", 0, verifier, self.registry)
        models = Models(OneAdapter(), "demo-base", 2048, datetime.now(UTC))
        served = Served("demo-base", vocab_size=100, max_prompt_tokens=2048)
        self.server.add(OpenAiRoutes(self.scripted, models, served, reader_patience=0.3).all())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/v1"

    def handled(self, code: int, route: str = "/v1/chat/completions") -> float:
        labels = {"route": route, "code": str(code)}
        return self.registry.get_sample_value("tailorbird_http_handled_total", labels) or 0

    def client(self, token: str = TOKEN) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    async def post(self, body: Any, path: str = "/chat/completions") -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, json=body)

    async def events(self, body: Any, path: str = "/chat/completions") -> list[Any]:
        """Return what a stream's events say; "[DONE]" as it is."""
        told = await self.post(body, path)
        assert told.status_code == 200, told.text
        assert told.headers["content-type"].startswith("text/event-stream")
        *events, nothing = told.text.split("\n\n")
        assert nothing == ""
        data = [event.removeprefix("data: ") for event in events]
        return [one if one == "[DONE]" else json.loads(one) for one in data]


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    edge = Edge()
    await edge.server.start()
    yield edge
    await edge.server.stop(0)


def answers(edge: Edge, *completions: Completion, version: VersionName | None = None) -> None:
    async def generate(request: GenerationRequest) -> Answer:
        edge.scripted.asked.append(request)
        return Answer(completions, USAGE, version, 7 if version else 0)

    edge.scripted.generate = generate  # type: ignore[method-assign]


class TestWholeAnswers:
    async def test_a_chat(self, edge: Edge) -> None:
        answers(edge, Completion("Hello.", STOP), version=VERSION)
        told = await edge.post(CHAT)
        assert told.headers["x-tailorbird-version"] == str(VERSION)
        assert told.headers["x-tailorbird-route-generation"] == "7"
        body = told.json()
        assert body.pop("id").startswith("chatcmpl-")
        assert body.pop("created") > 1_700_000_000
        message = {"role": "assistant", "content": "Hello.", "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        assert body == {
            "object": "chat.completion",
            "model": "support",
            "choices": [choice],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
        (asked,) = edge.scripted.asked
        assert (asked.final_only, str(asked.adapter)) == (True, "tenants/acme/adapters/support")

    async def test_calls_and_logprobs(self, edge: Edge) -> None:
        calls = Completion("", FinishReason.TOOL_CALLS, tool_calls=(CALL,), logprobs=(LOGPROBS,))
        answers(edge, Completion("x", LENGTH), calls)
        body = (await edge.post(CHAT | {"n": 2, "tools": [WEATHER]})).json()
        first, second = body["choices"]
        assert (first["index"], first["finish_reason"]) == (0, "length")
        assert (second["index"], second["finish_reason"]) == (1, "tool_calls")
        function = {"name": "weather", "arguments": '{"city":"Rome"}'}
        assert second["message"]["content"] is None
        assert second["message"]["tool_calls"] == [
            {"id": "call_1", "type": "function", "function": function}
        ]
        (entry,) = second["logprobs"]["content"]
        assert (entry["token"], entry["logprob"], entry["bytes"]) == ("é", -0.5, [195, 169])
        # Half a character has bytes that nobody knows.
        assert [one["bytes"] for one in entry["top_logprobs"]] == [[195, 169], None]

    async def test_forced_calls(self, edge: Edge) -> None:
        named = {"type": "function", "function": {"name": "weather"}}
        answers(edge, Completion('{"city":"Rome"}', STOP))
        body = (await edge.post(CHAT | {"tools": [WEATHER], "tool_choice": named})).json()
        (choice,) = body["choices"]
        (call,) = choice["message"]["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
        assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", None)
        answers(edge, Completion('[{"name":"weather","parameters":{"a":1}}]', STOP))
        body = (await edge.post(CHAT | {"tools": [WEATHER], "tool_choice": "required"})).json()
        (choice,) = body["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
        # Cut short it is no call, and shown as it is.
        answers(edge, Completion('[{"name":', LENGTH))
        body = (await edge.post(CHAT | {"tools": [WEATHER], "tool_choice": "required"})).json()
        (choice,) = body["choices"]
        assert choice["finish_reason"] == "length"
        assert choice["message"] == {
            "role": "assistant",
            "content": '[{"name":',
            "refusal": None,
        }

    async def test_a_completion(self, edge: Edge) -> None:
        answers(edge, Completion("é", STOP, logprobs=(LOGPROBS, LOGPROBS)))
        told = await edge.post({"model": "demo-base", "prompt": "Hi"}, "/completions")
        assert "x-tailorbird-version" not in told.headers
        body = told.json()
        assert (body["object"], body["model"]) == ("text_completion", "demo-base")
        (choice,) = body["choices"]
        assert choice == {
            "index": 0,
            "text": "é",
            "finish_reason": "stop",
            "logprobs": {
                "tokens": ["é", "é"],
                "token_logprobs": [-0.5, -0.5],
                "top_logprobs": [{"é": -0.5, "\ufffd": -1.5}] * 2,
                "text_offset": [0, 1],
            },
        }


class TestStreams:
    async def test_a_chat(self, edge: Edge) -> None:
        edge.scripted.chunks = [
            Chunk("a", version=VERSION, route_generation=7),
            Chunk('"\n\u2028é\U0001f600'),
            Chunk("!", STOP, usage=USAGE),
        ]
        told = await edge.post(STREAM)
        assert told.headers["x-tailorbird-version"] == str(VERSION)
        assert told.headers["x-tailorbird-route-generation"] == "7"
        assert told.headers["cache-control"] == "no-cache"
        *events, done = await edge.events(STREAM)
        assert done == "[DONE]"
        assert {event["object"] for event in events} == {"chat.completion.chunk"}
        assert {event["model"] for event in events} == {"support"}
        assert len({event["id"] for event in events}) == 1
        assert "usage" not in events[0]
        choices = [event["choices"][0] for event in events]
        assert [one["delta"] for one in choices] == [
            {"role": "assistant", "content": "a"},
            {"content": '"\n\u2028é\U0001f600'},
            {"content": "!"},
        ]
        assert [one["finish_reason"] for one in choices] == [None, None, "stop"]

    async def test_its_usage_comes_last(self, edge: Edge) -> None:
        *events, last, done = await edge.events(
            STREAM | {"stream_options": {"include_usage": True}}
        )
        assert done == "[DONE]"
        assert [event["usage"] for event in events] == [None, None, None]
        assert last["choices"] == []
        assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

    async def test_several_completions_with_logprobs_and_calls(self, edge: Edge) -> None:
        edge.scripted.chunks = [
            Chunk("a", index=1),
            Chunk("b", logprobs=[LOGPROBS]),
            Chunk("c", index=1),
            Chunk("", STOP, index=1),
            Chunk("", FinishReason.TOOL_CALLS, tool_calls=[CALL, CALL], usage=USAGE),
        ]
        *events, _ = await edge.events(STREAM | {"n": 2, "tools": [WEATHER]})
        choices = [event["choices"][0] for event in events]
        assert [one["index"] for one in choices] == [1, 0, 1, 1, 0]
        assert ["role" in one["delta"] for one in choices] == [True, True, False, False, False]
        assert choices[1]["logprobs"]["content"][0]["token"] == "é"
        assert choices[3]["delta"] == {}
        assert [one["index"] for one in choices[4]["delta"]["tool_calls"]] == [0, 1]
        assert choices[4]["finish_reason"] == "tool_calls"

    async def test_a_forced_call(self, edge: Edge) -> None:
        edge.scripted.chunks = [Chunk('[{"name":"weather","parameters":{}}]', STOP, usage=USAGE)]
        event, _ = await edge.events(STREAM | {"tools": [WEATHER], "tool_choice": "required"})
        (choice,) = event["choices"]
        assert choice["delta"]["tool_calls"][0]["function"] == {
            "name": "weather",
            "arguments": "{}",
        }
        assert (choice["delta"]["content"], choice["finish_reason"]) == ("", "tool_calls")

    async def test_a_completion(self, edge: Edge) -> None:
        edge.scripted.chunks = [
            Chunk("a"),
            Chunk("é", logprobs=[LOGPROBS]),
            Chunk("é", logprobs=[LOGPROBS], index=0),
            Chunk("b", LENGTH, usage=USAGE),
        ]
        body = {"model": "demo-base", "prompt": "Hi", "stream": True}
        *events, done = await edge.events(body, "/completions")
        assert done == "[DONE]"
        choices = [event["choices"][0] for event in events]
        assert [one["text"] for one in choices] == ["a", "é", "é", "b"]
        assert [(one["logprobs"] or {}).get("text_offset") for one in choices] == [
            None,
            [0],
            [1],
            None,
        ]
        assert [one["finish_reason"] for one in choices] == [None, None, None, "length"]


class TestErrors:
    async def test_before_the_first_piece_a_stream_has_a_status(self, edge: Edge) -> None:
        edge.scripted.chunks, edge.scripted.then = [], ResourceExhausted("full", retry_after=2)
        told = await edge.post(STREAM)
        assert (told.status_code, told.headers["retry-after"]) == (429, "2")
        edge.scripted.then = InvalidArgument(
            "sampling.max_tokens", "9 is more", reason="X", limit=8
        )
        told = await edge.post(STREAM | {"max_tokens": 9})
        assert told.status_code == 400
        assert told.json()["error"]["param"] == "max_tokens"
        edge.scripted.then = NotFound("tenants/acme/adapters/support", reason="ADAPTER_NOT_FOUND")
        told = await edge.post(STREAM)
        assert told.status_code == 404
        assert told.json()["error"]["code"] == "model_not_found"

    async def test_one_that_breaks_ends_with_the_error_and_without_done(self, edge: Edge) -> None:
        edge.scripted.chunks, edge.scripted.then = [Chunk("a")], EngineDied("the engine died")
        piece, error = await edge.events(STREAM)
        assert piece["choices"][0]["delta"]["content"] == "a"
        assert error["error"]["reason"] == "ENGINE_DIED"
        assert edge.handled(409) == 1
        async with openai.AsyncOpenAI(base_url=edge.url, api_key=TOKEN, max_retries=0) as client:
            with pytest.raises(openai.APIError, match="the engine died"):
                async for _ in await client.chat.completions.create(**STREAM):
                    pass

    async def test_one_without_an_end_breaks_too(self, edge: Edge) -> None:
        edge.scripted.chunks = [Chunk("a")]
        _, error = await edge.events(STREAM)
        assert error["error"]["reason"] == "ENGINE_STOPPED"

    async def test_what_is_no_error_of_ours_keeps_its_text(self, edge: Edge) -> None:
        edge.scripted.chunks, edge.scripted.then = [Chunk("a")], RuntimeError("a secret")
        with capture_logs():
            told = await edge.post(STREAM)
        assert "secret" not in told.text
        assert '"type": "server_error"' in told.text
        assert edge.handled(500) == 1

    async def test_the_servers_end_is_told(self, edge: Edge) -> None:
        started = asyncio.Event()

        async def stream(request: GenerationRequest) -> AsyncGenerator[Chunk]:
            yield Chunk("a")
            started.set()
            await asyncio.Event().wait()

        edge.scripted.stream = stream  # type: ignore[method-assign]
        waiting = asyncio.create_task(edge.events(STREAM))
        await started.wait()
        await edge.server.stop(0)
        _, error = await waiting
        assert error["error"]["reason"] == "SHUTTING_DOWN"
        assert edge.handled(503) == 1

    @pytest.mark.parametrize(
        ("body", "param", "status"),
        [
            (CHAT | {"temprature": 1}, "temprature", 400),
            (CHAT | {"model": "tenants/globex/adapters/support"}, None, 404),
            (CHAT | {"model": "no/model"}, None, 404),
            ([CHAT], "body", 400),
        ],
    )
    async def test_bad_input_reaches_nobody(
        self, edge: Edge, body: Any, param: str | None, status: int
    ) -> None:
        told = await edge.post(body)
        assert (told.status_code, told.json()["error"]["param"]) == (status, param)
        assert edge.scripted.asked == []

    async def test_wrong_bodies_tokens_and_tenants(self, edge: Edge) -> None:
        async with edge.client() as client:
            path = "/chat/completions"
            kind = {"content-type": "application/json"}
            assert (await client.post(path, content=b"{", headers=kind)).status_code == 400
            assert (await client.post(path, content=b"{}")).status_code == 415
            big = b"[" + b" " * 100 * 2**20 + b"]"
            told = await client.post(path, content=big, headers=kind)
            assert (told.status_code, told.json()["error"]["code"]) == (413, "body_too_large")
            other = {"x-tailorbird-tenant": "globex"}
            assert (await client.post(path, json=CHAT, headers=other)).status_code == 404
            assert (await client.get("/models", headers=other)).status_code == 404
            assert (await client.get(path)).status_code == 405
        async with edge.client("wrong") as client:
            assert (await client.post(path, json=CHAT)).status_code == 401
            assert (await client.get("/models")).status_code == 401
        assert edge.scripted.asked == []


class TestReaders:
    async def test_one_who_leaves_ends_the_generation(self, edge: Edge) -> None:
        edge.scripted.chunks, edge.scripted.endless = [], "x"
        async with (
            edge.client() as client,
            client.stream("POST", "/chat/completions", json=STREAM) as told,
        ):
            await anext(told.aiter_lines())
        await asyncio.wait_for(edge.scripted.closed.wait(), 30)
        await edge.server.stop(30)
        assert (edge.scripted.running, edge.handled(499)) == (0, 1)

    async def test_one_who_leaves_before_the_first_piece_does_too(self, edge: Edge) -> None:
        entered, left = asyncio.Event(), asyncio.Event()

        async def wait(request: GenerationRequest) -> Any:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

        async def stream(request: GenerationRequest) -> AsyncGenerator[Chunk]:
            await wait(request)
            yield LAST_NEVER

        edge.scripted.generate = wait  # type: ignore[method-assign]
        edge.scripted.stream = stream  # type: ignore[method-assign]
        for body in (CHAT, STREAM):
            entered.clear()
            left.clear()
            asking = asyncio.create_task(edge.post(body))
            await entered.wait()
            asking.cancel()
            await asyncio.wait_for(left.wait(), 30)

    async def test_one_who_takes_nothing_is_cut_off(self, edge: Edge) -> None:
        edge.scripted.chunks, edge.scripted.endless = [], "x" * 10_000
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.server.port, limit=2**14)
        body = json.dumps(STREAM).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"authorization: Bearer let-me-in\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        await reader.readline()
        await asyncio.wait_for(edge.scripted.closed.wait(), 30)
        rest = await reader.read()
        writer.close()
        # It does not end as a whole answer does.
        assert not rest.endswith(b"0\r\n\r\n")
        await edge.server.stop(30)
        assert edge.handled(409) == 1


LAST_NEVER = Chunk("")

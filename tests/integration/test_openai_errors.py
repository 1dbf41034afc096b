"""OpenAI's routes on a real socket: what is refused, what breaks a stream, who leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import openai
import pytest
from structlog.testing import capture_logs

from serving_svc.generation.model import (
    Chunk,
    EngineDied,
    GenerationRequest,
)
from tailorbird.errors import InvalidArgument, NotFound, ResourceExhausted
from tests.integration.openai_edge import (
    CHAT,
    STREAM,
    TOKEN,
    Edge,
)


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    edge = Edge()
    await edge.server.start()
    yield edge
    await edge.server.stop(0)


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

    async def test_what_goes_wrong_after_the_end_is_counted_and_not_written(
        self, edge: Edge
    ) -> None:
        edge.scripted.then = RuntimeError("too late")
        with capture_logs() as logs:
            *_, done = await edge.events(STREAM)
        assert done == "[DONE]"
        assert edge.handled(500) == 1
        assert len([entry for entry in logs if entry["log_level"] == "error"]) == 1

    @pytest.mark.parametrize(
        ("body", "path", "field", "param"),
        [
            (CHAT, "/chat/completions", "input", "messages"),
            (CHAT, "/chat/completions", "chat.messages[0].content", "messages[0].content"),
            (CHAT, "/chat/completions", "sampling.seed.of", "seed.of"),
            ({"model": "support", "prompt": "Hi"}, "/completions", "input", "prompt"),
            ({"model": "support", "prompt": [5]}, "/completions", "token_ids.ids[0]", "prompt[0]"),
        ],
    )
    async def test_what_generating_refuses_has_the_callers_name_for_the_field(
        self, edge: Edge, body: dict[str, Any], path: str, field: str, param: str
    ) -> None:
        edge.scripted.chunks, edge.scripted.then = [], InvalidArgument(field, "it is wrong")
        told = await edge.post(body | {"stream": True}, path)
        assert (told.status_code, told.json()["error"]["param"]) == (400, param)

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

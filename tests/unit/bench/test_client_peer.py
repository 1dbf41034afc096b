from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.serving.client_peer import PeerClient
from bench.serving.load import RequestFailed
from bench.serving.plan import Answer, Ask

_ASK = Ask("t-0001", True, "Hello", 3)
_BASE = Ask("t-0001", False, "Hello", 3)


def _event(text: str, finish: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-1", "choices": [choice], "usage": None}


_USAGE: dict[str, object] = {
    "id": "cmpl-1",
    "choices": [],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3},
}


class _Server:
    """Answers every request with the same events, as uvicorn frames them."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = [
            _event("a"),
            _event(""),
            _event("bc", "length"),
            _USAGE,
        ]
        self.status = "200 OK"
        self.cut = False
        self.bodies: list[dict[str, object]] = []
        self.heads: list[str] = []
        self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                self.heads.append(head)
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                self.bodies.append(json.loads(await reader.readexactly(length)))
                writer.write(f"HTTP/1.1 {self.status}\r\n".encode())
                writer.write(b"transfer-encoding: chunked\r\n\r\n")
                lines = [json.dumps(event, separators=(",", ":")) for event in self.events]
                for line in [*lines, "[DONE]"]:
                    chunk = f"data: {line}\n\n".encode()
                    writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                if self.cut:
                    return
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def _serving(server: _Server, *named: str) -> AsyncIterator[PeerClient]:
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = PeerClient("127.0.0.1", port, *named)
    async with listening:
        yield client
        await client.close()


async def test_times_are_those_of_text_and_tokens_those_of_the_usage() -> None:
    server, answer = _Server(), Answer("only")
    async with _serving(server) as client:
        await client.ask(_ASK, answer)

    assert len(answer.times) == 2
    assert answer.tokens == 3
    assert server.bodies[0] == {
        "model": "t-0001",
        "prompt": "Hello",
        "max_tokens": 3,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_ours_is_asked_with_a_token_and_chats_are_read_too() -> None:
    server, answer = _Server(), Answer("only")
    server.events = [
        {"choices": [{"delta": delta, "finish_reason": None}]}
        for delta in ({"role": "assistant", "content": ""}, {"content": "a"}, {})
    ]
    server.events.append(_USAGE)
    async with _serving(server, "demo", "secret") as client:
        await client.ask(Ask("t-0001", False, "Hello", 3, chat=True), answer)

    assert (len(answer.times), answer.tokens) == (1, 3)
    (body,), (head,) = server.bodies, server.heads
    assert (body["model"], "prompt" in body) == ("demo", False)
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert head.startswith("post /v1/chat/completions ")
    assert "authorization: bearer secret\r\nx-tailorbird-tenant: t-0001\r\n" in head


async def test_a_connection_is_used_again() -> None:
    server = _Server()
    async with _serving(server) as client:
        for _ in range(3):
            await client.ask(_BASE, Answer("only"))

    assert server.connections == 1
    assert [body["model"] for body in server.bodies] == ["base"] * 3


async def test_requests_at_once_have_connections_of_their_own() -> None:
    server = _Server()
    async with _serving(server) as client:
        await asyncio.gather(*(client.ask(_BASE, Answer("only")) for _ in range(4)))

    assert server.connections == 4


async def test_a_refusal_is_told() -> None:
    server = _Server()
    server.status = "404 Not Found"
    async with _serving(server) as client:
        with pytest.raises(RequestFailed, match="HTTP 404"):
            await client.ask(_ASK, Answer("only"))


async def test_an_error_within_the_stream_is_told() -> None:
    server = _Server()
    server.events = [_event("a"), {"error": {"message": "the engine died"}}]
    async with _serving(server) as client:
        with pytest.raises(RequestFailed, match="the engine died"):
            await client.ask(_ASK, Answer("only"))


async def test_a_stream_without_its_usage_has_failed() -> None:
    server = _Server()
    server.events = [_event("a")]
    async with _serving(server) as client:
        with pytest.raises(RequestFailed, match="without its usage"):
            await client.ask(_ASK, Answer("only"))


async def test_a_broken_connection_is_told_and_not_used_again() -> None:
    server = _Server()
    server.cut = True
    async with _serving(server) as client:
        with pytest.raises(RequestFailed, match="broke"):
            await client.ask(_ASK, Answer("only"))
        server.cut = False
        await client.ask(_ASK, Answer("only"))

    assert server.connections == 2


async def test_nobody_listening_is_a_failed_request() -> None:
    server = _Server()
    async with _serving(server) as client:
        pass
    with pytest.raises(RequestFailed, match="cannot connect"):
        await client.ask(_ASK, Answer("only"))

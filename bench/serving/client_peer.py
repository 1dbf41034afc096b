"""OpenAI's API, the peer's or ours, over HTTP/1.1 with keep-alive: one request a connection."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast

from bench.serving.load import RequestFailed
from bench.serving.plan import Answer, Ask
from bench.serving.sse import ResponseReader
from tailorbird.metadata import TENANT

BASE_NAME = "base"
"""The base model's name at the peer, where an adapter's is its tenant's."""

_NO_TEXT = (b'"text":""', b'"content":""')
_TEXT = (b'"text":"', b'"content":"')
_CHOICE = b'"finish_reason":'
# The one event that has no choice carries the usage.
_USAGE = b'"choices":[]'
_DONE = b"[DONE]"
_SHOWN_CHARS = 300


class PeerClient:
    """`load.Client` for either. Nothing is parsed as JSON but one event a request.

    Ours needs a `token`, which may speak for every tenant.
    """

    def __init__(self, host: str, port: int, base: str = BASE_NAME, token: str = "") -> None:
        self._host, self._port = host, port
        self._base, self._token = base, token
        self._idle: list[_Connection] = []

    async def ask(self, ask: Ask, answer: Answer) -> None:
        """See load.Client."""
        connection = await self._connection()
        try:
            await connection.exchange(self._request(ask), answer)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    async def close(self) -> None:
        """See load.Client."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, made = await loop.create_connection(_Connection, self._host, self._port)
        except OSError as error:
            raise RequestFailed(f"cannot connect: {error}") from error
        return made

    def _request(self, ask: Ask) -> bytes:
        asked: dict[str, Any] = {
            "model": ask.tenant if ask.adapted else self._base,
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if ask.chat:
            path, asked["messages"] = "chat/", [{"role": "user", "content": ask.prompt}]
        else:
            path, asked["prompt"] = "", ask.prompt
        body = json.dumps(asked).encode()
        head = (
            f"POST /v1/{path}completions HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        if self._token:
            head += f"Authorization: Bearer {self._token}\r\n{TENANT}: {ask.tenant}\r\n"
        head += "\r\n"
        return head.encode() + body


class _Connection(asyncio.Protocol):
    """One connection, with at most one request on it."""

    is_open = False
    _transport: asyncio.Transport
    _reader: ResponseReader
    _answer: Answer
    _ended: asyncio.Future[None] | None = None

    async def exchange(self, request: bytes, answer: Answer) -> None:
        """Send `request` and follow its response to the end; RequestFailed."""
        self._reader, self._answer = ResponseReader(), answer
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._ended
        if self._reader.status != 200:
            text = self._reader.body.decode(errors="replace")
            raise RequestFailed(f"HTTP {self._reader.status}: {text[:_SHOWN_CHARS]}")
        if not answer.tokens:
            raise RequestFailed("the stream ended without its usage")

    def close(self) -> None:
        """Close it, whatever goes on."""
        self.is_open = False
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        # uvloop's is one by its methods only.
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._ended is None or self._ended.done():
            return
        now = time.perf_counter()
        try:
            for event in self._reader.feed(data):
                self._take(event, now)
        except (ValueError, IndexError, RequestFailed) as error:
            self._ended.set_exception(RequestFailed(f"cannot read the response: {error}"))
            return
        if self._reader.done:
            self._ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.is_open = False
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(RequestFailed(f"the connection broke: {exc}"))

    def _take(self, event: bytes, now: float) -> None:
        if _USAGE in event:
            told: dict[str, Any] = json.loads(event)
            self._answer.tokens = int(told["usage"]["completion_tokens"])
        elif any(text in event for text in _TEXT):
            if not any(nothing in event for nothing in _NO_TEXT):
                self._answer.times.append(now)
        elif _CHOICE not in event and event != _DONE:
            raise RequestFailed(event[:_SHOWN_CHARS].decode(errors="replace"))

"""One streamed answer on the wire: it ends with [DONE], or with an error that says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from serving_svc.api.stalled_reader import PatientWriter
from serving_svc.generation.model import Chunk
from serving_svc.http.convert_request import Asked
from serving_svc.http.events import Events, event
from tailorbird.errors import Aborted, Unavailable
from tailorbird.http.exchange import Exchange, shutting_down
from tailorbird.metadata import ROUTE_GENERATION, VERSION
from tailorbird.names import VersionName

_LAST_SECONDS = 2.0
"""For an error to reach a reader who may have stopped reading."""

Headers = list[tuple[bytes, bytes]]


def answerer(version: VersionName | None, generation: int) -> Headers:
    """Return the headers that say who answered; none for the base model."""
    if version is None:
        return []
    return [
        (VERSION.encode(), str(version).encode()),
        (ROUTE_GENERATION.encode(), str(generation).encode()),
    ]


class EventStream:
    """A response: writes `chunks` as `events` to a caller who may leave, or stop reading."""

    def __init__(
        self, asked: Asked, chunks: AsyncGenerator[Chunk], events: Events, patience: float
    ) -> None:
        self._asked = asked
        self._chunks = chunks
        self._events = events
        self._patience = patience
        self._begun = self._ended = False

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Write it all; what goes wrong before the first piece is raised."""
        exchange = Exchange.of(scope)
        try:
            async with exchange.present():
                await self._write(exchange)
        except ClientDisconnect:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if not self._begun:
                raise
            # Nobody but the server's end cancels a request.
            told = shutting_down() if isinstance(error, asyncio.CancelledError) else error
            await self._break(exchange, told)

    async def _write(self, exchange: Exchange) -> None:
        async with (
            aclosing(self._chunks) as chunks,
            PatientWriter(exchange.send, self._patience) as writer,
        ):
            with self._asked.refusals.told(self._asked.model):
                async for chunk in chunks:
                    if not self._begun:
                        await self._begin(exchange, chunk)
                    self._ended = chunk.usage is not None
                    await writer.write(
                        {
                            "type": "http.response.body",
                            "body": self._events.of(chunk),
                            "more_body": not self._ended,
                        }
                    )
        if not self._ended:
            raise Unavailable("the engine ended the generation early", reason="ENGINE_STOPPED")

    async def _begin(self, exchange: Exchange, chunk: Chunk) -> None:
        self._begun = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            # nginx would keep the pieces back.
            (b"x-accel-buffering", b"no"),
            *answerer(chunk.version, chunk.route_generation),
        ]
        await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _break(self, exchange: Exchange, error: BaseException) -> None:
        told = exchange.failed(error)
        if self._ended:
            return
        if isinstance(error, Aborted) and error.reason == "READER_STALLED":
            exchange.cut()
            return
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await exchange.send({"type": "http.response.body", "body": event(told.body)})
        except TimeoutError:
            exchange.cut()

"""An HTTP server with a few routes of the tests' own, and connections that say what they like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tailorbird.errors import ResourceExhausted
from tailorbird.http.body import read_json
from tailorbird.http.exchange import Exchange
from tailorbird.http.server import HttpServer
from tailorbird.rpc.auth import TokenVerifier, current_caller

MAX_BYTES = 200_000


class Routes:
    """What the server answers; each event says how far a call has come."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.released = asyncio.Event()
        self.left = asyncio.Event()
        self.raised: BaseException = RuntimeError("unset")

    def all(self) -> list[Route]:
        return [
            Route("/who", self.who),
            Route("/echo", self.echo, methods=["POST"]),
            Route("/wait/{what}", self.wait),
            Route("/watched", self.watched, methods=["POST"]),
            Route("/raise", self.fail),
        ]

    async def who(self, _: Request) -> Response:
        caller = current_caller()
        return JSONResponse({"subject": caller.subject})

    async def echo(self, request: Request) -> Response:
        return JSONResponse(await read_json(request, MAX_BYTES))

    async def wait(self, _: Request) -> Response:
        self.entered.set()
        await self.released.wait()
        return JSONResponse({"waited": True})

    async def watched(self, request: Request) -> Response:
        await read_json(request)
        try:
            async with Exchange.of(request.scope).present():
                self.entered.set()
                await self.released.wait()
        finally:
            self.left.set()
        return JSONResponse({})

    async def fail(self, _: Request) -> Response:
        raise self.raised


class Running:
    """A server that listens, and what it counted."""

    def __init__(self, verifier: TokenVerifier | None = None, **more: Any) -> None:
        self.registry = CollectorRegistry()
        self.routes = Routes()
        self.server = HttpServer("127.0.0.1", 0, verifier, self.registry, **more)
        self.server.add(self.routes.all())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def client(self, **more: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False, **more)

    def handled(self, route: str, code: int) -> float:
        labels = {"route": route, "code": str(code)}
        return self.registry.get_sample_value("tailorbird_http_handled_total", labels) or 0

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            yield reader, writer
        finally:
            writer.close()


@asynccontextmanager
async def running(verifier: TokenVerifier | None = None, **more: Any) -> AsyncIterator[Running]:
    """Listen inside the block."""
    one = Running(verifier, **more)
    await one.server.start()
    try:
        yield one
    finally:
        await one.server.stop(0)


def limited() -> ResourceExhausted:
    return ResourceExhausted("too many", reason="RATE_LIMITED", retry_after=2.5)

"""A proxy before an HTTP server that spoils chosen requests, one at a time, by a script.

What no fault is meant for passes as it is. Faults are functions of one exchange; those below are
what object stores and the networks before them do.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

Fault = Callable[["Exchange"], Awaitable[None]]


@dataclass(slots=True)
class Exchange:
    """One request, and the ways to answer it."""

    request: bytes
    method: str
    target: str
    range: str
    upstream: tuple[str, int]
    writer: asyncio.StreamWriter

    async def reply(self) -> bytes:
        """Return what the server answers, head and body."""
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(self.request)
            return await reader.read()
        finally:
            writer.close()

    async def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection as a crash does: with RST, whatever is still under way."""
        peer = self.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def passed(exchange: Exchange) -> None:
    """Answer as the server does."""
    await exchange.send(await exchange.reply())


async def reset(exchange: Exchange) -> None:
    """Break the connection before the server has heard of the request."""
    exchange.reset()


async def lost(exchange: Exchange) -> None:
    """Have the server do what is asked, and lose its reply."""
    await exchange.reply()
    exchange.reset()


async def hung(exchange: Exchange) -> None:
    """Never answer."""
    await asyncio.Event().wait()


def answered(status: str, *headers: str, body: str = "") -> Fault:
    """Answer with `status`, like "503 Slow Down", without asking the server."""

    async def fault(exchange: Exchange) -> None:
        lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
        await exchange.send("\r\n".join([*lines, "Connection: close", "", body]).encode())

    return fault


def delayed(seconds: float) -> Fault:
    """Pass the request on `seconds` later."""

    async def fault(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await passed(exchange)

    return fault


def cut(size: int, end: Fault | None = None) -> Fault:
    """Answer with the whole head, but only `size` bytes of the body, and then close, or `end`."""

    async def fault(exchange: Exchange) -> None:
        head, _, body = (await exchange.reply()).partition(b"\r\n\r\n")
        assert len(body) > size, "there is nothing to cut off"
        await exchange.send(head + b"\r\n\r\n" + body[:size])
        if end is not None:
            await end(exchange)

    return fault


@dataclass(slots=True)
class _Rule:
    fault: Fault
    method: str
    target: str
    left: float


@dataclass(slots=True)
class FaultProxy:
    """Listens on a port of its own before the server at `server`; an async context.

    `seen` are the requests that came, as "GET /bucket/key?query", and "bytes=10-" after it where a
    range is asked for.
    """

    server: str
    seen: list[str] = field(default_factory=list)
    url: str = ""
    _rules: list[_Rule] = field(default_factory=list)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)
    _listening: asyncio.Server | None = None

    def plan(self, fault: Fault, *, times: float = 1, method: str = "", target: str = "") -> None:
        """Spoil the next `times` requests of `method` whose target holds `target`.

        What was planned first goes first.
        """
        self._rules.append(_Rule(fault, method, target, times))

    def heal(self) -> None:
        """Spoil nothing more."""
        self._rules.clear()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        host, port = self._listening.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        self._listening.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            # A client that hangs up, or one that is hung up on, is no error of the proxy's.
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                exchange = await self._received(reader, writer)
                self.seen.append(f"{exchange.method} {exchange.target} {exchange.range}".rstrip())
                await self._fault(exchange)(exchange)
        except asyncio.CancelledError:
            # The end of the proxy: nobody awaits what a server has started.
            return
        finally:
            writer.close()

    async def _received(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Exchange:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        parted = [line.partition(":") for line in lines]
        fields = {name.lower(): value.strip() for name, _, value in parted}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        # One exchange a connection: the server closes, so that its reply has an end.
        kept = [line for line in lines if not line.lower().startswith("connection:")]
        request = "\r\n".join([first, *kept, "Connection: close", "", ""]).encode("latin-1") + body
        upstream = urlsplit(self.server)
        assert upstream.hostname is not None
        assert upstream.port is not None
        method, target, _ = first.split(" ")
        place = upstream.hostname, upstream.port
        return Exchange(request, method, target, fields.get("range", ""), place, writer)

    def _fault(self, exchange: Exchange) -> Fault:
        for rule in self._rules:
            meant = rule.method in {"", exchange.method} and rule.target in exchange.target
            if meant and rule.left:
                rule.left -= 1
                return rule.fault
        return passed

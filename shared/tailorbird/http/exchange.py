"""One request and what became of it: its id, its answer's status, whether its caller is there."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from tailorbird.errors import TailorbirdError, Unavailable
from tailorbird.http.errors import ErrorAnswer, error_answer

_log = structlog.get_logger(__name__)

GONE = 499
"""What nginx calls a caller who left before the answer: counted, never sent."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_LINGER_SECONDS = 15.0
_KEY = "tailorbird.exchange"
ABORT = "tailorbird.abort"
"""In a request's scope: ends its connection at once."""


class Exchange:
    """Stands between the server and a route, as its `receive` and `send`.

    `paths` are the routes' by their endpoints.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, paths: Mapping[object, str]
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._paths = paths
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = _request_id(self.headers)
        self.status = 0
        """HTTP's, or what an error that came in the midst of an answer would have had."""
        self._begun = self._complete = False
        self._read = not _has_body(self.headers)
        scope[_KEY] = self

    @classmethod
    def of(cls, scope: Scope) -> Exchange:
        """Return the one that `scope` belongs to."""
        exchange: Exchange = scope[_KEY]
        return exchange

    @property
    def route(self) -> str:
        """The route's path, in which no caller's text stands, or "none"."""
        return self._paths.get(self._scope.get("endpoint"), "none")

    async def receive(self) -> Message:
        """Return what comes next; `http.disconnect` only if the caller left before the answer."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            if not self._complete:
                self.status = GONE
        elif not message.get("more_body"):
            self._read = True
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self._begun = True
            self.status = self.status or message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"date", formatdate(usegmt=True).encode()),
                (b"x-request-id", self.request_id.encode()),
            ]
        elif not message.get("more_body"):
            self._complete = True
        await self._send(message)

    @asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        """Run the block as long as the caller is there, whose request has been read.

        Raises ClientDisconnect when the caller leaves.
        """
        scope = asyncio.timeout(None)
        try:
            async with scope:
                watching = asyncio.create_task(self._until_gone(scope))
                try:
                    yield
                finally:
                    watching.cancel()
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise ClientDisconnect from error

    async def _until_gone(self, scope: asyncio.Timeout) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        if not self._complete:
            scope.reschedule(asyncio.get_running_loop().time())

    def failed(self, error: BaseException) -> ErrorAnswer:
        """Log and count what ended the call; return what its caller is told."""
        answer = error_answer(error)
        self.status = answer.status
        if isinstance(error, TailorbirdError):
            _log.info(
                "call refused",
                route=self.route,
                status=self.status,
                reason=answer.reason,
                request_id=self.request_id,
            )
        return answer

    def cut(self) -> None:
        """End the connection at once, with what it was not read of: its reader takes nothing."""
        self._scope[ABORT]()

    async def refuse(self, error: BaseException) -> None:
        """Answer with an error, if nothing was answered before and somebody is there to hear it."""
        if isinstance(error, ClientDisconnect):
            return
        answer = self.failed(error)
        if self._begun:
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer.body)).encode()),
            *answer.headers,
        ]
        if not self._read:
            headers.append((b"connection", b"close"))
        await self.send(
            {"type": "http.response.start", "status": answer.status, "headers": headers}
        )
        await self.send({"type": "http.response.body", "body": answer.body, "more_body": True})
        await self._linger()
        await self.send({"type": "http.response.body", "body": b""})

    async def _linger(self) -> None:
        """Read on and forget it: who is cut off in the midst of sending may not hear the answer."""
        if b"expect" in self.headers:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._read:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        return
                    self._read = not message.get("more_body")


def shutting_down() -> Unavailable:
    """Return what the callers of requests are told that the server's end cuts short."""
    return Unavailable("this server is shutting down", reason="SHUTTING_DOWN")


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

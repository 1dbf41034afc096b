"""A client's connection to one service, for asyncio; `tailorbird.connection` is for threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar, cast

import grpc

from tailorbird import channel, metadata
from tailorbird.call_error import CallError
from tailorbird.connection import Connection, Page, PagedRequest, call_errors, client_closed, noting
from tailorbird.retry import RETRIES, Attempts

_CANCELLED = grpc.StatusCode.CANCELLED

Request = TypeVar("Request")
Response = TypeVar("Response")
Item = TypeVar("Item")


class AsyncConnection:
    """A channel and what every call on it carries; `retries` is how often a call is made again."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        root_certificates: bytes | None = None,
        plaintext: bool = False,
        retries: int = RETRIES,
    ) -> None:
        channel.check(address, token)
        self._retries = retries
        self._for_threads = partial(Connection, address, token, root_certificates, plaintext)
        self._uploads: Connection | None = None
        options = channel.options(address)
        secured = channel.credentials(address, root_certificates, plaintext)
        if secured is None:
            self._opened = grpc.aio.insecure_channel(address, options)
        else:
            self._opened = grpc.aio.secure_channel(address, secured, options)
        carried = channel.caller_metadata(token)
        self.channel = cast("grpc.aio.Channel", channel.Carrying(self._opened, carried))
        self._is_closed = False

    async def close(self) -> None:
        """Close the channel; calls in flight, and later ones, are Cancelled (CLIENT_CLOSED)."""
        self._is_closed = True
        if self._uploads is not None:
            self._uploads.close()
        await self._opened.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = channel.TIMEOUT,  # noqa: ASYNC109 - the call's own deadline
        model: str = "",
        again: bool = False,
    ) -> Response:
        """Make one call, of `model` if any; CallError if it fails.

        `again`: made twice, it says and does the same, and may be made again.
        """
        attempts = Attempts(timeout, again=again, retries=self._retries)
        carried = channel.model_metadata(model)
        while True:
            try:
                with self._errors():
                    return await method(
                        request, timeout=attempts.deadline.left(), metadata=_metadata(carried)
                    )
            except CallError as error:
                pause = attempts.pause(error)
                if pause is None:
                    raise
            await self.sleep(pause)

    async def upload(
        self,
        method: Callable[[grpc.Channel], grpc.StreamUnaryMultiCallable[Request, Response]],
        requests: Iterable[Request],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's own deadline
    ) -> Response:
        """Send requests, which are drawn on a thread of gRPC's; CallError if the call fails.

        What drawing them raises is raised here, and nothing is stored then.

        The call is one of gRPC's for threads: in 1.85 one for asyncio that its service ends while
        it is written to fails as INTERNAL, now and then, whatever the service said.
        """
        if self._is_closed:
            raise client_closed()
        if self._uploads is None:
            self._uploads = self._for_threads()
        failures: list[Exception] = []
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def wake(_: object) -> None:
            # A loop that is closed waits for nothing.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        sent = noting(requests, failures)
        call = method(self._uploads.channel).future(sent, timeout=timeout)
        call.add_done_callback(wake)
        try:
            await done.wait()
            with self._errors():
                return call.result()
        except CallError:
            if failures:
                raise failures[0] from None
            raise
        finally:
            call.cancel()

    async def pages(
        self, method: grpc.aio.UnaryUnaryMultiCallable[PagedRequest, Page], request: PagedRequest
    ) -> AsyncIterator[Page]:
        """Yield a listing's pages, each fetched when it is asked for; CallError if a call fails."""
        while True:
            page = await self.call(method, request, again=True)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def items(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[PagedRequest, Page],
        request: PagedRequest,
        of: Callable[[Page], Iterable[Item]],
    ) -> AsyncIterator[Item]:
        """Yield what is on a listing's pages."""
        async for page in self.pages(method, request):
            for item in of(page):
                yield item

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's own deadline
        model: str = "",
        heard: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Response]:
        """Yield a call's responses; CallError if it fails. Closing it ends the call.

        `heard` is called when the service says that it watches, before the first response.
        """
        attempts = Attempts(timeout, again=False)
        carried = channel.model_metadata(model)
        while True:
            taken = False
            with self._errors():
                left = attempts.deadline.left()
                call = method(request, timeout=left, metadata=_metadata(carried))
            try:
                with self._errors():
                    begun = await call.initial_metadata()
                    if heard is not None and begun.get(metadata.WATCHING):
                        heard()
                    async for response in call:
                        taken = True
                        yield response
                return
            except CallError as error:
                pause = None if taken else attempts.pause(error)
                if pause is None:
                    raise
            finally:
                call.cancel()
            await self.sleep(pause)

    async def sleep(self, seconds: float) -> None:
        """Let time pass between two calls."""
        await asyncio.sleep(seconds)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise CallError for a call that fails inside, whichever way a closed channel says so."""
        try:
            with call_errors():
                yield
        except (CallError, grpc.aio.UsageError) as error:
            if self._is_closed and getattr(error, "code", _CANCELLED) is _CANCELLED:
                raise client_closed() from error
            raise
        except asyncio.CancelledError as error:
            # So does gRPC end a call on a channel that is closed, where nobody cancels the task.
            task = asyncio.current_task()
            if self._is_closed and task is not None and not task.cancelling():
                raise client_closed() from error
            raise


def _metadata(carried: channel.Metadata) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(*carried)

"""A client's connection to one service, for threads; the one for asyncio is in `tailorbird.aio`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, cast

import grpc

from tailorbird import channel, metadata
from tailorbird.absence import CLIENT_CLOSED
from tailorbird.call_error import CallError, Cancelled
from tailorbird.retry import RETRIES, Attempts

_CANCELLED = grpc.StatusCode.CANCELLED

Request = TypeVar("Request")
Response = TypeVar("Response")
Item = TypeVar("Item")


class _PagedRequest(Protocol):
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


PagedRequest = TypeVar("PagedRequest", bound=_PagedRequest)
Page = TypeVar("Page", bound=_Page)


class Connection:
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
        options = channel.options(address)
        secured = channel.credentials(address, root_certificates, plaintext)
        if secured is None:
            self._opened = grpc.insecure_channel(address, options)
        else:
            self._opened = grpc.secure_channel(address, secured, options)
        carried = channel.caller_metadata(token)
        self.channel = cast("grpc.Channel", channel.Carrying(self._opened, carried))
        self._is_closed = False

    def close(self) -> None:
        """Close the channel; calls in flight, and later ones, are Cancelled (CLIENT_CLOSED)."""
        self._is_closed = True
        self._opened.close()

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = channel.TIMEOUT,
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
                    return method(request, timeout=attempts.deadline.left(), metadata=carried)
            except CallError as error:
                pause = attempts.pause(error)
                if pause is None:
                    raise
            self.sleep(pause)

    def upload(
        self,
        method: Callable[[grpc.Channel], grpc.StreamUnaryMultiCallable[Request, Response]],
        requests: Iterable[Request],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send requests, which are drawn on a thread of gRPC's; CallError if the call fails.

        What drawing them raises is raised here, and nothing is stored then.
        """
        failures: list[Exception] = []
        try:
            with self._errors():
                return method(self.channel)(noting(requests, failures), timeout=timeout)
        except CallError:
            if failures:
                raise failures[0] from None
            raise

    def pages(
        self, method: grpc.UnaryUnaryMultiCallable[PagedRequest, Page], request: PagedRequest
    ) -> Iterator[Page]:
        """Yield a listing's pages, each fetched when it is asked for; CallError if a call fails."""
        while True:
            page = self.call(method, request, again=True)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def items(
        self,
        method: grpc.UnaryUnaryMultiCallable[PagedRequest, Page],
        request: PagedRequest,
        of: Callable[[Page], Iterable[Item]],
    ) -> Iterator[Item]:
        """Yield what is on a listing's pages."""
        for page in self.pages(method, request):
            yield from of(page)

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        model: str = "",
        heard: Callable[[], None] | None = None,
    ) -> Generator[Response]:
        """Yield a call's responses; CallError if it fails. Closing it ends the call.

        `heard` is called when the service says that it watches, before the first response.
        """
        attempts = Attempts(timeout, again=False)
        while True:
            taken = False
            with self._errors():
                call = method(
                    request,
                    timeout=attempts.deadline.left(),
                    metadata=channel.model_metadata(model),
                )
            try:
                with self._errors():
                    if heard is not None and metadata.WATCHING in dict(call.initial_metadata()):
                        heard()
                    for response in call:
                        taken = True
                        yield response
                return
            except CallError as error:
                pause = None if taken else attempts.pause(error)
                if pause is None:
                    raise
            finally:
                call.cancel()
            self.sleep(pause)

    def sleep(self, seconds: float) -> None:
        """Let time pass between two calls."""
        time.sleep(seconds)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise CallError for a call that fails inside, whichever way a closed channel says so."""
        try:
            with call_errors():
                yield
        except (CallError, ValueError) as error:
            if self._is_closed and getattr(error, "code", _CANCELLED) is _CANCELLED:
                raise client_closed() from error
            raise


def client_closed() -> Cancelled:
    """Return the error of a call whose client was closed, before it or meanwhile."""
    return Cancelled(_CANCELLED, "this client is closed", reason=CLIENT_CLOSED)


def noting(requests: Iterable[Request], failures: list[Exception]) -> Iterator[Request]:
    """Yield requests, and keep what drawing them raises: gRPC says only that something was."""
    try:
        yield from requests
    except Exception as error:
        failures.append(error)
        raise


@contextmanager
def call_errors() -> Iterator[None]:
    """Raise CallError for a call that fails inside."""
    try:
        yield
    except grpc.RpcError as error:
        raise CallError.from_call(error) from error

"""A client's channel to one service: how it is opened, who it says it is, how its calls fail."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import grpc

from tailorbird import metadata
from tailorbird.address import is_local_target
from tailorbird.call_error import CallError
from tailorbird.errors import InvalidArgument

Request = TypeVar("Request")
Response = TypeVar("Response")

Metadata = tuple[tuple[str, str], ...]
TIMEOUT = 60.0
"""Seconds that a call may take."""
# For proxies that hash, and for inference gateways that cannot parse our messages.
_MODEL_METADATA = (metadata.ADAPTER, metadata.MODEL_REWRITE)
# gRPC would make a call again that a closing server did not take. In 1.85 that may never end, not
# even by the call's deadline: we do it instead, once.
_OPTIONS = (("grpc.enable_retries", 0),)
# What gRPC says of a call that a server's last word left out of those it took (RFC 9113, 6.8).
_NOT_TAKEN = "Stream removed (GOAWAY received"
# Longer than every name; gRPC gives all of a call's metadata 8 kB.
_MAX_MODEL_CHARS = 256


class _PagedRequest(Protocol):
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


PagedRequest = TypeVar("PagedRequest", bound=_PagedRequest)
Page = TypeVar("Page", bound=_Page)


class Connection:
    """A channel and what every call on it carries.

    TLS that trusts `root_certificates` (PEM; None: gRPC's own), unless the address is loopback or
    `plaintext` is set.
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        root_certificates: bytes | None,
        plaintext: bool,
    ) -> None:
        if token and not _sendable(token):
            raise InvalidArgument("token", "only printable ASCII can be sent")
        if not address.strip():
            raise InvalidArgument("address", "it is empty; host:port is needed")
        self._token = token
        if root_certificates is None and (plaintext or is_local_target(address)):
            self.channel = grpc.insecure_channel(address, options=_OPTIONS)
        else:
            self.channel = grpc.secure_channel(
                address, grpc.ssl_channel_credentials(root_certificates), options=_OPTIONS
            )

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = TIMEOUT,
        model: str = "",
    ) -> Response:
        """Make one call, of `model` if any; CallError if it fails."""
        carried = self._metadata(model)
        try:
            with call_errors():
                return method(request, timeout=timeout, metadata=carried)
        except CallError as error:
            if not _was_not_taken(error):
                raise
        with call_errors():
            return method(request, timeout=timeout, metadata=carried)

    def upload(
        self,
        method: grpc.StreamUnaryMultiCallable[Request, Response],
        requests: Iterator[Request],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send a stream of requests; CallError if the call fails."""
        with call_errors():
            return method(requests, timeout=timeout, metadata=self._metadata())

    def pages(
        self, method: grpc.UnaryUnaryMultiCallable[PagedRequest, Page], request: PagedRequest
    ) -> Iterator[Page]:
        """Yield a listing's pages, each fetched when it is asked for; CallError if a call fails."""
        while True:
            page = self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        model: str = "",
        heard: Callable[[], None] | None = None,
    ) -> Generator[Response, None, None]:
        """Yield a call's responses; CallError if it fails. Closing it ends the call.

        `heard` is called when the service says that it watches, before the first response.
        """
        for is_last in (False, True):
            taken = is_last
            call = method(request, timeout=timeout, metadata=self._metadata(model))
            try:
                with call_errors():
                    if heard is not None and metadata.WATCHING in dict(call.initial_metadata()):
                        heard()
                    for response in call:
                        taken = True
                        yield response
                return
            except CallError as error:
                if taken or not _was_not_taken(error):
                    raise
            finally:
                call.cancel()

    def _metadata(self, model: str = "") -> Metadata:
        """Return what a call carries: who calls, and the model that a proxy or gateway may go by.

        So an adapter's requests meet where its weights are. What gRPC cannot send is no name: it is
        left out, and the service says what is wrong with it.
        """
        carried: Metadata = ()
        if self._token:
            carried += (("authorization", f"Bearer {self._token}"),)
        if model and len(model) <= _MAX_MODEL_CHARS and _sendable(model):
            carried += tuple((key, model) for key in _MODEL_METADATA)
        return carried


def _sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _was_not_taken(error: CallError) -> bool:
    """Tell whether the server closed before it took the call: no service has seen it."""
    return error.code is grpc.StatusCode.UNAVAILABLE and error.message.startswith(_NOT_TAKEN)


@contextmanager
def call_errors() -> Iterator[None]:
    """Raise CallError for a call that fails inside."""
    try:
        yield
    except grpc.RpcError as error:
        raise CallError.from_call(error) from error

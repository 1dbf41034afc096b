"""What stands around every handler: the caller, the metrics, and the outermost error map."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import structlog
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry, Counter, Histogram

from tailorbird.errors import InvalidArgument, TailorbirdError
from tailorbird.rpc.auth import LOCAL_CALLER, Caller, TokenVerifier, set_current_caller
from tailorbird.rpc.status import to_status

_log = structlog.get_logger(__name__)
_OPEN_SERVICES = ("/grpc.health.v1.",)
_Context = grpc.aio.ServicerContext[Any, Any]


class RpcMetrics:
    """Counts and times of calls, by method and status code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.handled = Counter(
            "tailorbird_rpc_handled", "Calls ended.", ["method", "code"], registry=registry
        )
        self.seconds = Histogram(
            "tailorbird_rpc_duration_seconds",
            "Time from a call's arrival to its end.",
            ["method"],
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600),
            registry=registry,
        )


class EdgeInterceptor(grpc.aio.ServerInterceptor):
    """Finds the caller, runs the handler, and turns whatever it raises into one status.

    The caller is found by the call's metadata, before any of its body is read: who is refused costs
    no parsing, and hears so at once. Deserializers are wrapped too: malformed protobuf is the
    caller's INVALID_ARGUMENT, not UNKNOWN.
    """

    def __init__(self, verifier: TokenVerifier | None, metrics: RpcMetrics) -> None:
        self._verifier = verifier
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler, unless it is a health check."""
        handler = await continuation(details)
        method = str(details.method)
        if handler is None or method.startswith(_OPEN_SERVICES):
            return handler
        try:
            caller = self._caller(details)
        except Exception as error:
            return self._refusing(method, handler, error)
        decode = _Decoder(handler.request_deserializer)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(method, handler.stream_unary, decode.stream, caller),
                decode,
                handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream, decode.single, caller),
                decode,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary, decode.single, caller),
            decode,
            handler.response_serializer,
        )

    def _caller(self, details: grpc.HandlerCallDetails) -> Caller:
        if self._verifier is None:
            return LOCAL_CALLER
        return self._verifier.verify(dict(details.invocation_metadata or ()))

    def _refusing(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any], error: Exception
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Return a handler that refuses the call; of a stream of requests it need not read one."""

        async def handle(_: Any, context: _Context) -> None:
            with _Call(method, self._metrics) as call:
                status = call.failed(error)
            await context.abort_with_status(rpc_status.to_status(status))

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    def _unary(
        self, method: str, behavior: Any, request_of: Callable[[Any], Any], caller: Caller
    ) -> Callable[[Any, _Context], Awaitable[Any]]:
        async def handle(request: Any, context: _Context) -> Any:
            with _Call(method, self._metrics) as call:
                try:
                    set_current_caller(caller)
                    return await behavior(request_of(request), context)
                except Exception as error:
                    status = call.failed(error)
            return await context.abort_with_status(rpc_status.to_status(status))

        return handle

    def _stream(
        self, method: str, behavior: Any, request_of: Callable[[Any], Any], caller: Caller
    ) -> Callable[[Any, _Context], Awaitable[None]]:
        """Wrap a generator of responses, or a coroutine that writes them itself."""

        async def handle(request: Any, context: _Context) -> None:
            with _Call(method, self._metrics) as call:
                try:
                    set_current_caller(caller)
                    responses = behavior(request_of(request), context)
                    if isinstance(responses, AsyncGenerator):
                        await _write_all(responses, context)
                    else:
                        await responses
                    return
                except Exception as error:
                    status = call.failed(error)
            await context.abort_with_status(rpc_status.to_status(status))

        return handle


async def _write_all(responses: AsyncGenerator[Any], context: _Context) -> None:
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)


class _Malformed:
    """Stands for a request that could not be decoded."""


class _Decoder:
    """Decodes requests; what cannot be decoded is raised inside the handler, not by gRPC."""

    def __init__(self, deserializer: Callable[[bytes], Any] | None) -> None:
        self._deserializer = deserializer

    def __call__(self, data: bytes) -> Any:
        if self._deserializer is None:
            return data
        try:
            return self._deserializer(data)
        except Exception:
            return _Malformed()

    @staticmethod
    def single(request: Any) -> Any:
        if isinstance(request, _Malformed):
            raise InvalidArgument(
                "request", "the bytes are not the method's message", reason="MALFORMED_REQUEST"
            )
        return request

    @staticmethod
    async def stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield _Decoder.single(request)


class _Call:
    """Counts and times one call, whichever way it ends."""

    def __init__(self, method: str, metrics: RpcMetrics) -> None:
        self._method = method
        self._metrics = metrics
        self._start = time.perf_counter()
        self._code = grpc.StatusCode.OK.name

    def __enter__(self) -> _Call:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            cancelled = issubclass(kind, asyncio.CancelledError | GeneratorExit)
            self._code = (
                grpc.StatusCode.CANCELLED.name if cancelled else grpc.StatusCode.UNKNOWN.name
            )
        self._metrics.handled.labels(self._method, self._code).inc()
        self._metrics.seconds.labels(self._method).observe(time.perf_counter() - self._start)

    def failed(self, error: Exception) -> Status:
        status = to_status(error)
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        self._code = code.name
        if isinstance(error, TailorbirdError):
            _log.info("call refused", method=self._method, code=code.name, reason=error.reason)
        return status

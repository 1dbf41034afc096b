"""A gRPC server with health, and the order in which it stops."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from prometheus_client import CollectorRegistry

from tailorbird.address import authority
from tailorbird.errors import FailedPrecondition, Unavailable
from tailorbird.rpc.auth import TokenVerifier
from tailorbird.rpc.endless import EndlessCalls
from tailorbird.rpc.interceptors import EdgeInterceptor, RpcMetrics

_log = structlog.get_logger(__name__)

# Behind a headless Service, clients find new replicas only when they reconnect.
_MAX_CONNECTION_AGE_MS = 15 * 60 * 1000
# Clients ask each half minute whether a silent watch still has its connection; gRPC's own minimum
# of five minutes would end theirs.
MIN_PING_SECONDS = 10
_OPTIONS = (
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_SECONDS * 1000),
    ("grpc.max_connection_age_ms", _MAX_CONNECTION_AGE_MS),
    ("grpc.max_connection_age_grace_ms", 10 * 60 * 1000),
    ("grpc.so_reuseport", 0),
)


class RpcServer:
    """One listening server: NOT_SERVING until `set_ready(True)`.

    With `credentials` it speaks TLS only. `endless` is for calls that a stop shall end.
    """

    def __init__(
        self,
        host: str,
        port: int,
        verifier: TokenVerifier | None,
        registry: CollectorRegistry,
        services: Iterable[str],
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.grpc = grpc.aio.server(
            interceptors=[EdgeInterceptor(verifier, RpcMetrics(registry))], options=_OPTIONS
        )
        self.endless = EndlessCalls()
        self._health = _Health(self.endless)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        self._services = ("", *services)
        self._address = authority(host, port)
        self._credentials = credentials
        self.ready = False
        self._announced = False
        self._stopping = False
        self.port = 0

    async def start(self) -> None:
        """Listen. FailedPrecondition if the port is taken."""
        try:
            if self._credentials is None:
                self.port = self.grpc.add_insecure_port(self._address)
            else:
                self.port = self.grpc.add_secure_port(self._address, self._credentials)
        except RuntimeError as error:
            raise FailedPrecondition(
                f"cannot listen on {self._address}: {error}", reason="PORT_TAKEN", setting="port"
            ) from error
        await self.set_ready(False)
        await self.grpc.start()

    async def set_ready(self, ready: bool) -> None:
        """Say whether the service takes requests, to grpc.health.v1 and /readyz.

        Once it stops, it takes none, whatever is said.
        """
        ready = ready and not self._stopping
        self.ready = ready
        self._announced = self._announced or ready
        status = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._health.set(service, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self, grace: float, *, delay: float = 0.0) -> None:
        """Say NOT_SERVING; after `delay` seconds refuse new calls, end watches, await the others.

        In `delay` calls are still taken: it is the time that load balancers need to hear of it.
        Calls in flight then have `grace` seconds.
        """
        await self.leave(delay)
        await self.end(grace)

    async def leave(self, delay: float = 0.0) -> None:
        """Say NOT_SERVING, and after `delay` seconds end watches: the first half of `stop`."""
        self.ready, self._stopping = False, True
        await self._health.enter_graceful_shutdown()
        # Nobody was ever sent to a server that never said SERVING.
        if self._announced:
            await asyncio.sleep(delay)
        self.endless.end()

    async def end(self, grace: float) -> None:
        """Refuse new calls and await the others: the second half of `stop`."""
        await self.grpc.stop(grace)


class _Health(HealthServicer):
    """grpc.health.v1, whose watches end with the server."""

    def __init__(self, endless: EndlessCalls) -> None:
        super().__init__()
        self._endless = endless

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - gRPC's name
        """See health.proto."""
        try:
            async with self._endless.call():
                await super().Watch(request, context)
        except Unavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop

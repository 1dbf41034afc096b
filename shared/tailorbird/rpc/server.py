"""A gRPC server with health, and the order in which it stops."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from prometheus_client import CollectorRegistry

from tailorbird.errors import FailedPrecondition
from tailorbird.rpc.auth import TokenVerifier
from tailorbird.rpc.interceptors import EdgeInterceptor, RpcMetrics

_log = structlog.get_logger(__name__)

# Behind a headless Service, clients find new replicas only when they reconnect.
_MAX_CONNECTION_AGE_MS = 15 * 60 * 1000
_OPTIONS = (
    ("grpc.max_connection_age_ms", _MAX_CONNECTION_AGE_MS),
    ("grpc.max_connection_age_grace_ms", 10 * 60 * 1000),
    ("grpc.so_reuseport", 0),
)


class RpcServer:
    """One listening server: NOT_SERVING until `set_ready(True)`."""

    def __init__(
        self,
        host: str,
        port: int,
        verifier: TokenVerifier | None,
        registry: CollectorRegistry,
        services: Iterable[str],
    ) -> None:
        self.grpc = grpc.aio.server(
            interceptors=[EdgeInterceptor(verifier, RpcMetrics(registry))], options=_OPTIONS
        )
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        self._services = ("", *services)
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.ready = False
        self._stopping = False
        self.port = 0

    async def start(self) -> None:
        """Listen. FailedPrecondition if the port is taken."""
        try:
            self.port = self.grpc.add_insecure_port(self._address)
        except RuntimeError as error:
            raise FailedPrecondition(
                f"cannot listen on {self._address}: {error}", reason="PORT_TAKEN"
            ) from error
        await self.set_ready(False)
        await self.grpc.start()

    async def set_ready(self, ready: bool) -> None:
        """Say whether the service takes requests, to grpc.health.v1 and /readyz.

        Once it stops, it takes none, whatever is said.
        """
        ready = ready and not self._stopping
        self.ready = ready
        status = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._health.set(service, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Say NOT_SERVING, then refuse new calls, and give those in flight `grace` seconds."""
        self.ready, self._stopping = False, True
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace)


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop

"""An HTTP server inside the service's own event loop, which stops when it is told to."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry
from starlette.routing import Route
from uvicorn import Config
from uvicorn.server import ServerState

from tailorbird.address import authority
from tailorbird.errors import FailedPrecondition
from tailorbird.http.app import HttpApp, HttpMetrics
from tailorbird.http.protocol import BoundedHeads
from tailorbird.rpc.auth import TokenVerifier

# Longer than proxies and clients keep an idle connection: those who close it know of it.
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 1024
# Unsent bytes above which a write waits. The kernel would take megabytes of an answer that is not
# read, and nobody would learn of it.
_MAX_UNSENT_BYTES = 16 * 1024
# After it was cancelled, a request has so long to say so.
_LAST_SECONDS = 2.0


class HttpServer:
    """One listening server; `add` gives it routes. With `tls` it speaks TLS only.

    uvicorn reads and writes HTTP. Its own `Server` is left out: that takes the process's signals.
    """

    def __init__(
        self,
        host: str,
        port: int,
        verifier: TokenVerifier | None,
        registry: CollectorRegistry,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host = host.strip("[]")
        self._asked = port
        self._tls = tls
        self._app = HttpApp(verifier, HttpMetrics(registry))
        self._state = ServerState()
        self._listening: asyncio.Server | None = None
        self._changed = asyncio.Event()
        self.port = 0
        """The port bound, once it listens."""

    def add(self, routes: Sequence[Route]) -> None:
        """Answer `routes` too; each has an endpoint of its own."""
        self._app.add(routes)

    async def start(self) -> None:
        """Listen. FailedPrecondition (PORT_TAKEN) if the port is taken."""
        config = Config(
            self._app,
            http=BoundedHeads,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        config.load()
        try:
            bound = _bind(self._host, self._asked)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot listen on {authority(self._host, self._asked)}: {error.strerror}",
                reason="PORT_TAKEN",
                setting="http_port",
            ) from error
        self.port = bound.getsockname()[1]
        self._listening = await asyncio.get_running_loop().create_server(
            lambda: BoundedHeads(config, self._state, self._changed.set),
            sock=bound,
            ssl=self._tls,
            backlog=_BACKLOG,
        )

    async def stop(self, grace: float) -> None:
        """Take no more requests; those in flight have `grace` seconds, then they are told so."""
        if self._listening is None:
            return
        self._listening.close()
        # In the same turn of the loop, so that no request begins meanwhile on an open connection.
        for connection in list(self._state.connections):
            connection.shutdown()
        await self._emptied(grace)
        for task in list(self._state.tasks):
            task.cancel()
        await self._emptied(_LAST_SECONDS)
        for connection in list(self._state.connections):
            connection.transport.abort()

    async def _emptied(self, seconds: float) -> None:
        """Wait until no connection is left, whose last bytes are then on their way."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._state.connections:
                    self._changed.clear()
                    await self._changed.wait()
                # Of callers who left.
                while self._state.tasks:
                    await asyncio.wait(self._state.tasks)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # As gRPC does: every address, those of IPv4 too.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        with suppress(OSError):
            # Each connection inherits it.
            bound.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _MAX_UNSENT_BYTES)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; the socket module has it from Python 3.12 on

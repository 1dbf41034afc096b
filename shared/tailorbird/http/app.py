"""What stands around every route: the caller, the metrics, and the outermost error map."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from tailorbird.address import is_loopback
from tailorbird.errors import (
    InvalidArgument,
    NotFound,
    TailorbirdError,
    Unauthenticated,
)
from tailorbird.http.exchange import GONE, Exchange, shutting_down
from tailorbird.rpc.auth import LOCAL_CALLER, Caller, TokenVerifier, set_current_caller

_NO_PATH, _NO_METHOD = 404, 405


class HttpMetrics:
    """Counts and times of requests, by route and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.handled = Counter(
            "tailorbird_http_handled",
            "HTTP requests ended, by route and status; 499: the caller left before the answer.",
            ["route", "code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "tailorbird_http_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ["route"],
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600),
            registry=registry,
        )


class HttpApp:
    """Finds the caller, runs the route, and turns whatever it raises into one answer.

    As for gRPC the caller is found before any of the body is read. Routes ask `current_caller()`.
    """

    def __init__(self, verifier: TokenVerifier | None, metrics: HttpMetrics) -> None:
        self._verifier = verifier
        self._metrics = metrics
        self._router = Router()
        self._paths: dict[object, str] = {}

    def add(self, routes: Sequence[Route]) -> None:
        """Take `routes`; each has an endpoint of its own."""
        self._router.routes.extend(routes)
        self._paths |= {route.endpoint: route.path for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        start = time.perf_counter()
        exchange = Exchange(scope, receive, send, self._paths)
        # With it Starlette raises what it refuses itself.
        scope["app"] = self
        try:
            await self._handle(scope, exchange)
        finally:
            status = exchange.status or GONE
            self._metrics.handled.labels(exchange.route, str(status)).inc()
            self._metrics.seconds.labels(exchange.route).observe(time.perf_counter() - start)

    async def _handle(self, scope: Scope, exchange: Exchange) -> None:
        try:
            set_current_caller(self._caller(exchange.headers))
            await self._router(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            # Nobody but the server's end cancels a request.
            await exchange.refuse(shutting_down())
        except HTTPException as error:
            await exchange.refuse(_of_starlette(error, scope))
        except Exception as error:
            await exchange.refuse(error)

    def _caller(self, headers: dict[bytes, bytes]) -> Caller:
        if self._verifier is None:
            _check_near(headers)
            return LOCAL_CALLER
        token = headers.get(b"authorization", b"").decode("latin-1")
        return self._verifier.verify({"authorization": token})


def _check_near(headers: dict[bytes, bytes]) -> None:
    """Refuse what a browser sends for a page from elsewhere: without tokens it could do all."""
    for name, prefix in ((b"host", "//"), (b"origin", "")):
        value = headers.get(name, b"").decode("latin-1")
        if value and not _is_near(prefix + value):
            raise Unauthenticated(
                f"the {name.decode()} {value[:80]!r} is not this machine, and without a tokens "
                "file only this machine is served",
                reason="NOT_LOCAL",
            )


def _is_near(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def _of_starlette(error: HTTPException, scope: Scope) -> TailorbirdError:
    if error.status_code == _NO_PATH:
        return NotFound(f"{scope['method']} {scope['path'][:200]}", reason="NO_SUCH_PATH")
    if error.status_code == _NO_METHOD:
        allowed = (error.headers or {}).get("Allow", "")
        return InvalidArgument(
            "method",
            f"{scope['method'][:20]} is not taken here; {allowed} is",
            reason="METHOD_NOT_ALLOWED",
        )
    return InvalidArgument("body", error.detail, reason="MALFORMED_REQUEST")

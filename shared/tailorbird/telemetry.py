"""Logs, and the plain HTTP port for probes and scraping: /livez, /readyz, /metrics."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Thread
from typing import Literal, TextIO, cast, get_args

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tailorbird.address import authority
from tailorbird.errors import FailedPrecondition

LogFormat = Literal["auto", "console", "json"]
_PATIENCE = 10.0
_PORT_ERRORS = {errno.EADDRINUSE, errno.EACCES, errno.EPERM}


def raw_log_format(environ: Mapping[str, str]) -> LogFormat:
    """Return the format asked for where the settings could not be read."""
    asked = environ.get("TAILORBIRD_LOG_FORMAT", "")
    return cast("LogFormat", asked) if asked in get_args(LogFormat) else "auto"


def is_console(log_format: LogFormat) -> bool:
    """Tell whether people read the logs; else they are JSON, a line each."""
    return log_format == "console" or (log_format == "auto" and sys.stderr.isatty())


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Send structlog's and the standard library's records to standard error, in one shape."""
    console = is_console(log_format)
    structlog.configure(
        processors=[*_shared(console), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(plain_stderr())
    handler.setFormatter(log_formatter(console=console))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in ("alembic", "aiosqlite", "httpx", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def plain_stderr() -> TextIO:
    """Return the standard error the process began with, whatever stands in for it now."""
    stream: TextIO = getattr(sys.stderr, "plain", sys.stderr)
    return stream


def log_formatter(*, console: bool) -> logging.Formatter:
    """Return what renders a record of either library: in color for people, or as JSON."""
    final: list[structlog.typing.Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if console
        else [
            # Local variables may hold a tenant's data: they stay out of the logs.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared(console),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
    )


def _shared(console: bool) -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Of probes and scrapers that come at once, none is refused.
    request_queue_size = 64

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service who it is, which may take long.
        TCPServer.server_bind(self)


class _Server6(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        # As gRPC does: every address, those of IPv4 too.
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def _server_class(host: str) -> type[_Server]:
    return _Server6 if ":" in host else _Server


class HealthServer:
    """Serves /livez, /readyz and /metrics from threads of its own.

    `ready` says whether the service takes requests now. A busy event loop does not stop answers.
    Raises FailedPrecondition (PORT_TAKEN) if it cannot listen.
    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, ready: Callable[[], bool]
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            # A connection that asks nothing holds its thread no longer than this.
            timeout = _PATIENCE

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, encode(registry), content_type)
                elif self.path == "/livez":
                    self._answer(200, b"ok\n")
                elif self.path == "/readyz":
                    self._answer(*((200, b"ok\n") if ready() else (503, b"not ready\n")))
                else:
                    self._answer(404, b"try /livez, /readyz or /metrics\n")

            def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Probes come every few seconds: nothing to log."""

        try:
            self._server = _server_class(host)((host.strip("[]"), port), Handler)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot listen on {authority(host, port)}: {error.strerror}",
                reason="PORT_TAKEN",
                setting="metrics_port" if error.errno in _PORT_ERRORS else "host",
            ) from error
        self._thread = Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port bound, also when 0 was asked for."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""The console as a process: an address it listens on, until it is asked to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from tailorbird.console.app import console
from tailorbird.console.config import Config

_GRACE_SECONDS = 5
"""Pages that go on while one looks are ended after so long."""


def serve(
    config: Config,
    host: str,
    port: int,
    pair: tuple[Path, Path] | None,
    listening: Callable[[int], None],
) -> None:
    """Serve until SIGINT or SIGTERM; `pair` is a certificate and its key, PEM files.

    `listening` hears the port once connections are taken. OSError if it is taken already. There is
    no access log: addresses have tenants' names in them, and say nothing that the services do not.
    """
    certificate, key = pair if pair is not None else (None, None)
    settings = uvicorn.Config(
        console(config),
        # The other one, httptools, keeps a request's headers however large they are.
        http="h11",
        ssl_certfile=certificate,
        ssl_keyfile=key,
        access_log=False,
        server_header=False,
        log_level="warning",
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as taking:
        listening(taking.getsockname()[1])
        uvicorn.Server(settings).run([taking])

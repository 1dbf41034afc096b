"""Planted faults of a clock, and of a disk."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from time import time

import pytest

from tailorbird.doctor.clock import store_clock
from tailorbird.doctor.finding import Status
from tailorbird.doctor.folders import data_directory

OK, WARNING, FAILED = Status.OK, Status.WARNING, Status.FAILED


def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    whole = 2.0**40
    _, low = data_directory(tmp_path, usual=whole, least=0.0)
    _, none = data_directory(tmp_path, usual=whole, least=whole)
    assert (low.status, none.status) == (WARNING, FAILED)
    assert (low.subject, "GiB free of" in low.found) == ("disk", True)
    assert low.advice.startswith("make room there")


@pytest.fixture
def stamped() -> Iterator[Callable[[float], str]]:
    """Starts an HTTP server whose clock is so many seconds ahead; returns its URL."""
    servers: list[HTTPServer] = []

    def start(ahead: float) -> str:
        class Handler(BaseHTTPRequestHandler):
            # It is the client who ends a connection.
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time() + ahead, usegmt=True)

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("ahead", "status", "told"),
    [
        (0, OK, "within"),
        (120, WARNING, "s behind"),
        (7200, FAILED, "s behind"),
        (-7200, FAILED, "s before"),
    ],
)
def test_a_clock_that_is_wrong(
    stamped: Callable[[float], str], ahead: float, status: Status, told: str
) -> None:
    (finding,) = store_clock("s3://bucket", {"AWS_ENDPOINT_URL": stamped(ahead)})
    assert (finding.subject, finding.status) == ("clock", status)
    assert told in finding.found
    assert ("by NTP" in finding.advice) is (status is not OK)


def test_a_store_that_says_no_time_is_no_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    (finding,) = store_clock("s3://bucket", {"AWS_ENDPOINT_URL": endpoint})
    assert (finding.status, finding.found.startswith("not compared")) == (OK, True)

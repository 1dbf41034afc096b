"""The plain HTTP port, and logs that hold nobody's data."""

from __future__ import annotations

import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter

from tailorbird.errors import FailedPrecondition
from tailorbird.telemetry import HealthServer, configure_logging


@pytest.fixture
def ready() -> dict[str, bool]:
    return {"now": False}


@pytest.fixture
def server(ready: dict[str, bool]) -> Iterator[HealthServer]:
    registry = CollectorRegistry()
    Counter("tailorbird_things", "Things.", registry=registry).inc(3)
    server = HealthServer("127.0.0.1", 0, registry, lambda: ready["now"])
    server.start()
    yield server
    server.stop()


def get(server: HealthServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_living_process_is_alive_before_it_is_ready(
    server: HealthServer, ready: dict[str, bool]
) -> None:
    assert get(server, "/livez")[0] == 200
    assert get(server, "/readyz")[0] == 503
    ready["now"] = True
    assert get(server, "/readyz")[0] == 200


def test_metrics_are_in_the_prometheus_format(server: HealthServer) -> None:
    status, body = get(server, "/metrics")
    assert status == 200
    assert "tailorbird_things_total 3.0" in body


def test_a_port_that_is_taken_is_told(server: HealthServer) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        HealthServer("127.0.0.1", server.port, CollectorRegistry(), lambda: True)
    assert caught.value.reason == "PORT_TAKEN"


def test_other_paths_are_not_found(server: HealthServer) -> None:
    assert get(server, "/")[0] == 404


@pytest.fixture
def clean_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("clean_logging")
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_local_variable(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    configure_logging(log_format, "info")  # type: ignore[arg-type]

    def handle(prompt: str) -> None:
        raise ValueError(len(prompt))

    try:
        handle("a tenant's " + "secret")
    except ValueError:
        structlog.get_logger("x").exception("unexpected")
    written = capsys.readouterr().err
    assert "ValueError" in written
    assert "a tenant's secret" not in written
    if log_format == "json":
        assert json.loads(written)["event"] == "unexpected"


@pytest.mark.usefixtures("clean_logging")
def test_the_standard_librarys_records_have_the_same_shape(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("json", "info")
    logging.getLogger("lib").warning("careful %s", "now")
    logging.getLogger("lib").debug("not shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "careful now"
    assert json.loads(line)["level"] == "warning"


def test_a_connection_that_asks_nothing_is_closed(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._server.RequestHandlerClass, "timeout", 0.01)
    with socket.create_connection(("127.0.0.1", server.port), 20) as idle:
        assert idle.recv(1) == b""


def test_no_connection_may_idle_for_ever(server: HealthServer) -> None:
    patience = getattr(server._server.RequestHandlerClass, "timeout")  # noqa: B009 - untyped
    assert 1 < patience <= 60

"""`tailorbird console` as a process: it starts, answers, refuses what is not safe, and stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tailorbird.cli.app import app
from tailorbird.console.config import Config
from tailorbird.errors import InvalidArgument


def test_it_serves_until_it_is_asked_to_stop(services: str) -> None:
    command = [sys.executable, "-m", "tailorbird.cli", "console", "--port", "0"]
    with subprocess.Popen(
        [*command, "--trainer", services, "--serving", services, "--tenant", "acme"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            url = next(word for word in said.split() if word.startswith("http://127.0.0.1:"))
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert "support-1121" in answer.read().decode()
            assert _answer_to_a_large_header(url).startswith(b"HTTP/1.1 400")
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def _answer_to_a_large_header(url: str) -> bytes:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as browser:
        browser.settimeout(30)
        browser.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"x" * 70_000)
        return browser.recv(100)


def test_it_takes_what_is_not_given_from_a_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "contexts.yaml").write_text(
        "current: far\n"
        "contexts: {far: {trainer: 'far:1', serving: 'near:2', tenant: acme, token: secret}}\n"
    )
    monkeypatch.setenv("TAILORBIRD_CONTEXTS_FILE", str(tmp_path / "contexts.yaml"))
    served: list[Config] = []
    monkeypatch.setattr(
        "tailorbird.console.serve.serve", lambda config, *_others: served.append(config)
    )
    ran = CliRunner().invoke(app, ["console", "--serving", "given:3"])
    assert ran.exception is None, ran.output
    (config,) = served
    assert (config.trainer, config.serving, config.tenant) == ("far:1", "given:3", "acme")
    assert "secret" not in repr(config)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--host", "0.0.0.0"], "--host"),
        (["--host", "0.0.0.0", "--behind-tls"], "--allowed-host"),
        (["--tenant", "NOT AN ID"], "--tenant"),
    ],
)
def test_what_is_not_safe_is_refused_before_it_listens(options: list[str], field: str) -> None:
    ran = CliRunner().invoke(app, ["console", *options])
    assert isinstance(ran.exception, InvalidArgument)
    assert ran.exception.field == field


def test_its_help_needs_no_web_server() -> None:
    code = (
        "import sys; from tailorbird.cli.app import app; import tailorbird.cli.console; "
        "assert not {'starlette', 'uvicorn', 'jinja2', 'tailorbird.console'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

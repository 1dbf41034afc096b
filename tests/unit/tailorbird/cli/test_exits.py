"""With what a command ends, and what it says last."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import grpc
import pytest

from tailorbird import errors
from tailorbird.call_error import CallError
from tailorbird.cli import health
from tailorbird.cli.app import main
from tailorbird.cli.exits import Exit, exit_of
from tailorbird.cli.failure import tell
from tailorbird.rpc.status import code_of

PATIENCE = 60.0
LOCAL: dict[Exit, list[errors.TailorbirdError]] = {
    Exit.UNEXPECTED: [errors.TailorbirdError("?"), errors.DataCorrupt("cut")],
    Exit.USAGE: [errors.InvalidArgument("--rank", "7")],
    Exit.NOT_FOUND: [errors.NotFound("it")],
    Exit.REFUSED: [
        errors.FailedPrecondition("not now"),
        errors.AdapterRefused("no"),
        errors.InvalidRecord(1, "empty"),
        errors.InvalidRecords([errors.InvalidRecord(1, "empty")], 1, 1),
    ],
    Exit.NOT_ALLOWED: [errors.Unauthenticated("who")],
    Exit.CONFLICT: [errors.AlreadyExists("it"), errors.Aborted("x"), errors.Conflict("x")],
    Exit.EXHAUSTED: [errors.ResourceExhausted("full")],
    Exit.UNAVAILABLE: [
        errors.Unavailable("away"),
        errors.StoreUnavailable("away"),
        errors.DeadlineExceeded("late"),
    ],
}
Tell = Callable[[Exception], tuple[int, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Tell:
    def told(error: Exception) -> tuple[int, str]:
        status = tell(error)
        captured = capsys.readouterr()
        assert captured.out == ""
        return status, captured.err

    return told


@pytest.mark.parametrize(
    ("status", "raised"), LOCAL.items(), ids=lambda one: getattr(one, "name", "")
)
def test_what_fails_here_has_its_status(status: Exit, raised: list[errors.TailorbirdError]) -> None:
    assert [exit_of(error) for error in raised] == [status] * len(raised)


def test_a_failed_call_ends_as_the_same_failure_here_does() -> None:
    for status, raised in LOCAL.items():
        for error in raised:
            if code := code_of(type(error)):
                refused = Exit.REFUSED if status is Exit.USAGE else status
                assert exit_of(CallError(code, "", reason="WHATEVER")) is refused, error


def test_every_code_has_a_status_of_its_own_choice() -> None:
    unexpected = {
        code.name
        for code in grpc.StatusCode
        if exit_of(CallError(code, "")) is Exit.UNEXPECTED and code is not grpc.StatusCode.OK
    }
    assert unexpected == {"CANCELLED", "UNKNOWN", "INTERNAL", "DATA_LOSS"}
    assert exit_of(CallError(grpc.StatusCode.PERMISSION_DENIED, "")) is Exit.NOT_ALLOWED
    assert exit_of(CallError(grpc.StatusCode.UNIMPLEMENTED, "")) is Exit.REFUSED


def test_every_status_says_what_it_means() -> None:
    assert [int(one) for one in Exit] == [*range(10), 130]
    assert len({one.meaning for one in Exit}) == len(Exit)


def test_a_fault_is_one_line_without_a_traceback(
    told: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TAILORBIRD_DEBUG", raising=False)
    status, line = told(ValueError("a\nb\x1b[2J" + "c" * 1000))
    assert status == 1
    assert line.startswith("error: ValueError: a\\nb\\x1b[2Jccc")
    assert line.endswith("(a fault of tailorbird's own; TAILORBIRD_DEBUG=1 shows where)\n")
    assert (line.count("\n"), len(line) < 700) == (1, True)
    assert told(FileNotFoundError(2, "No such file", "a\x1b")) == (
        1, "error: [Errno 2] No such file: 'a\\x1b'\n"
    )  # fmt: skip


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_traceback_is_shown_to_who_asks(
    debug: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object) -> None:
        raise errors.NotFound("it") if debug else KeyError("it")

    monkeypatch.setattr(health, "_check", check)
    monkeypatch.setattr(sys, "argv", ["tailorbird", "health", "--port", "1"])
    monkeypatch.setenv("TAILORBIRD_DEBUG", debug)
    with pytest.raises(SystemExit) as ended:
        main()
    text = capsys.readouterr().err
    assert ended.value.code == (3 if debug else 1)
    assert text.startswith("Traceback") is bool(debug)
    assert text.splitlines()[-1].startswith("error: ")


def test_an_answer_that_no_service_gave_comes_with_what_to_do(told: Tell) -> None:
    away = CallError(grpc.StatusCode.UNAVAILABLE, "refused")
    assert "--trainer" in told(away)[1].splitlines()[1]
    unknown = CallError(grpc.StatusCode.UNAUTHENTICATED, "no token")
    assert "TAILORBIRD_TOKEN" in told(unknown)[1].splitlines()[1]
    # A service says itself what to do.
    for own in ({"retry_after": 1.0}, {"reason": "DRAINING"}):
        error = CallError(grpc.StatusCode.UNAVAILABLE, "it stops", **own)
        assert told(error)[1].count("\n") == 1


def test_ctrl_c_ends_a_command_quietly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "tailorbird.cli", "jobs", "list", "--trainer", address],
            env={**os.environ, "TAILORBIRD_TENANT": "acme"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.strip()) == (130, "", "")

"""Completion as the shells ask for it, and once in a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tailorbird.cli.app import main
from tailorbird.cli.commands import Commands

NAMES = [entry.name for entries in Commands.sections.values() for entry in entries]
STATES = ["running", "queued", "paused", "succeeded", "failed", "cancelled"]

Ask = Callable[[str, str], str]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Return what a shell is answered when its user presses Tab at the end of `line`."""
    monkeypatch.setattr(sys, "argv", ["tailorbird"])

    def ask(shell: str, line: str) -> str:
        words = line.split(" ")
        monkeypatch.setenv("_TAILORBIRD_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    return ask


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_options_and_values_are_offered(ask: Ask, shell: str) -> None:
    told = ask(shell, "tailorbird ")
    assert [name for name in NAMES if name not in told] == []
    told = ask(shell, "tailorbird jobs ")
    assert [name for name in ("create", "watch", "sweep") if name not in told] == []
    told = ask(shell, "tailorbird jobs list --")
    assert [name for name in ("--state", "--tenant", "--output") if name not in told] == []
    told = ask(shell, "tailorbird jobs list --state ")
    assert [state for state in STATES if state not in told] == []


def test_what_is_begun_is_ended(ask: Ask) -> None:
    assert ask("bash", "tailorbird jo").split() == ["jobs"]
    assert ask("bash", "tailorbird jobs list --state s").split() == ["succeeded"]
    assert ask("bash", "tailorbird --v").split() == ["--version"]
    assert ask("bash", "tailorbird jobs sweep wa").split() == ["watch"]


def test_names_are_offered_with_their_help(ask: Ask) -> None:
    assert "jobs\tFine-tune: start jobs" in ask("fish", "tailorbird jo")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path: Path) -> None:
    command = tmp_path / "tailorbird"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tailorbird.cli "$@"\n')
    command.chmod(0o755)
    script = """
eval "$(_TAILORBIRD_COMPLETE=source_bash tailorbird)"
COMP_WORDS=(tailorbird jobs list --output "")
COMP_CWORD=4
_tailorbird_completion tailorbird
echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "table json yaml\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tailorbird"])
    monkeypatch.setenv("_TAILORBIRD_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert f"_TAILORBIRD_COMPLETE=complete_{shell}" in capsys.readouterr().out


def test_names_are_completed_without_their_commands(tmp_path: Path) -> None:
    code = """
import sys
from tailorbird.cli.app import main
try:
    main()
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "_TAILORBIRD_COMPLETE": "complete_bash",
            "COMP_WORDS": "tailorbird ",
            "COMP_CWORD": "1",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == NAMES
    loaded = set(done.stderr.split())
    assert "tailorbird.cli.commands" in loaded
    assert {"grpc", "rich", "tailorbird.cli.jobs"} & loaded == set()

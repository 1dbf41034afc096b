"""The root of the command line: its table of commands, and what it does not import."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import typer

from tailorbird import __version__
from tailorbird.cli import app as cli
from tailorbird.cli.commands import Commands
from tailorbird.cli.lazy import Entry

ENTRIES = [entry for entries in Commands.sections.values() for entry in entries]
HEAVY = (
    *("grpc", "google.protobuf", "torch", "vllm", "rich", "yaml", "asyncio", "numpy"),
    *("tailorbird.client", "tailorbird.cli.connect", "tailorbird.cli.output"),
)
SCRIPT = """
import sys
from pathlib import Path
from tailorbird.cli.app import main
into = Path(sys.argv.pop(1))
try:
    main()
finally:
    into.write_text(" ".join(sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), ([], 2), (["jbos"], 2), (["--version"], 0)]
)
def test_the_root_imports_no_command_and_no_client(
    tmp_path: Path, arguments: list[str], status: int
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "modules"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert "tailorbird" in done.stdout + done.stderr
    loaded = set((tmp_path / "modules").read_text().split())
    assert [name for name in HEAVY if name in loaded] == []
    assert {name for name in loaded if name.startswith("tailorbird.cli.")} <= {
        f"tailorbird.cli.{name}" for name in ("app", "commands", "exits", "lazy", "version")
    }


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_table_says_what_the_command_says(entry: Entry) -> None:
    command = entry.load()
    assert command.name == entry.name
    assert command.help is not None
    first, _, _ = command.help.partition("\n\n")
    assert " ".join(first.split()) == entry.help


def test_the_help_lists_every_command_under_its_heading(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/main", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    told = capsys.readouterr().out
    assert told.startswith("Usage: tailorbird [OPTIONS]")
    sections = {
        block.partition(":\n")[0]: [
            line.split()[0] for line in block.split("\n")[1:] if line[2:3].strip()
        ]
        for block in told.split("\n\n")
    }
    assert {
        heading: [entry.name for entry in entries] for heading, entries in Commands.sections.items()
    }.items() <= sections.items()
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)


def test_the_tree_can_be_walked() -> None:
    root = typer.main.get_command(cli.app)
    assert isinstance(root, Commands)
    context = typer.Context(root)
    assert root.list_commands(context) == [entry.name for entry in ENTRIES]
    jobs = root.get_command(context, "jobs")
    assert root.get_command(context, "jobs") is jobs
    assert {"create", "watch", "sweep"} <= set(jobs.list_commands(context))
    assert root.get_command(context, "jbos") is None


def test_a_mistyped_command_is_told_the_one_that_is_near(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tailorbird", "jbos"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "Did you mean 'jobs'?" in capsys.readouterr().err


def test_the_version_names_what_a_report_of_a_fault_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tailorbird", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    python = platform.python_version()
    assert capsys.readouterr().out == (
        f"tailorbird {__version__} (Python {python}, grpcio {grpc.__version__})\n"
    )

"""Every command and every Python block of the README and of docs/, run against live services."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import typer

from tailorbird.cli.app import app
from tests.docs.blocks import ANOTHER, REASONS, ROOT, Block, Command, blocks_of
from tests.docs.compare import differences
from tests.docs.conftest import UP, Live, clone
from tests.docs.program import Program
from tests.docs.shell import Shell

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [page for page in PAGES if any(not block.not_run for block in blocks_of(page))]
LEFT_OUT = [block for block in BLOCKS if block.not_run]
TENANT = "acme"
"""Whose names the pages use. Each page's run has a tenant of its own."""
_REFUSED = re.compile("([Ee]rror|failed):")
"""How a command ends that did not do what it was asked for."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_a_page_shows_happens(
    page: Path, live: Live, tmp_path: Path, environment: dict[str, str]
) -> None:
    tenant = f"{TENANT}-{page.stem.lower().replace('_', '-')}"
    own = {
        "TAILORBIRD_TRAINER": live.here("localhost:50051"),
        "TAILORBIRD_SERVING": live.here("localhost:50052"),
        "TAILORBIRD_TENANT": tenant,
    }
    folder = clone(tmp_path)
    shell = Shell(folder, environment | own)
    with closing(Program(folder, environment | own)) as program:
        for block in blocks_of(page):
            if block.not_run:
                continue
            for before in block.prepare:
                ended = shell.run(live.here(before.replace(TENANT, tenant)))
                assert ended.status == 0, f"{block.place}: {before}\n{ended.printed}"
            if block.language == "python":
                ended_well, printed = program.run(live.here(block.text.replace(TENANT, tenant)))
                assert ended_well, f"{block.place}:\n{printed}"
            for command in block.commands:
                _run_command(block, command, live, shell, tenant)


def _run_command(block: Block, command: Command, live: Live, shell: Shell, tenant: str) -> None:
    place = f"{block.page}:{command.line}: {command.text}"
    if command.text.split(" #")[0].strip() == UP:
        printed = live.printed
    else:
        ended = shell.run(live.here(command.text.replace(TENANT, tenant)))
        printed = ended.printed
        refused = any(map(_REFUSED.match, command.output.splitlines()))
        assert (ended.status != 0) is refused, f"{place}\nexit status {ended.status}\n{printed}"
    if command.output:
        told = live.as_shown(printed).replace(tenant, TENANT)
        assert not differences(command.output, told), (
            f"{place}\n{differences(command.output, told)}\n\n{told}"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_hides_in_a_block_without_a_language(page: Path) -> None:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert [text for language, text in fences if not language and text.startswith("$ ")] == []


@pytest.mark.parametrize("block", LEFT_OUT, ids=lambda block: block.place)
def test_what_is_not_run_is_right_as_far_as_it_can_be_read(block: Block) -> None:
    if block.not_run.startswith(ANOTHER):
        assert (ROOT / block.not_run.removeprefix(ANOTHER)).is_file()
    else:
        assert block.not_run in REASONS
    if block.language == "python":
        ast.parse(block.text)
    for command in block.commands:
        read = subprocess.run(
            ["bash", "-n", "-c", command.text], capture_output=True, text=True, check=False
        )
        assert read.returncode == 0, f"{block.place}: {command.text}\n{read.stderr}"
        for arguments in _ours(command.text):
            _parse(arguments)


def _ours(command: str) -> list[list[str]]:
    """Return the arguments of each call of our own command in a line of shell."""
    words = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars="();<>|&\n")
    words.whitespace = " \t"
    words.whitespace_split = True
    calls: list[list[str]] = []
    first, ours = True, False
    for word in words:
        if set(word) <= set("&|;()<>\n"):
            # What follows a redirection is a file, and no command.
            first, ours = "<" not in word and ">" not in word, False
        elif first and word == "tailorbird":
            calls.append([])
            first, ours = False, True
        elif ours:
            calls[-1].append(word)
        else:
            first = first and "=" in word
    return calls


def _parse(arguments: list[str]) -> None:
    """Read arguments as the command line would; an unknown option or command raises."""
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name="tailorbird")
    rest = list(arguments)
    while hasattr(command, "get_command"):
        name = rest.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"tailorbird has no command {name}"
        command = found
        context = command.context_class(command, info_name=name, parent=context)
    try:
        command.make_context(command.name, rest, parent=context.parent)
    except typer.BadParameter as error:
        # The files of a page that is only read are nowhere.
        if not re.search("does not exist|No such file", error.message):
            raise

"""What a page of the documentation shows that can be run: its blocks, their commands, their output.

A comment above a block says how it is run; readers of the page do not see it:

    <!-- not run: it needs a cluster -->   the block is only parsed; the page's text says why, too
    <!-- prepare: python make.py > bad.jsonl -->   a command that goes before the block
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = ("console", "sh", "bash")
LANGUAGES = (*SHELLS, "python")
REASONS = (
    "it needs a cluster",
    "it needs a GPU",
    "it needs a Ray cluster",
    "it needs a bucket",
    "it installs",
    "it runs the tests or the demo",
    "it measures for minutes",
)
"""Why a block may be left out; or "another test runs it: FILE"."""
ANOTHER = "another test runs it: "

_FENCE = re.compile(
    r"^(?P<above>(?:<!--.*?-->\n+)*)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"<!-- (not run|prepare): (.*?) -->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a shell block and what the page says it prints; "" says nothing of it."""

    line: int
    text: str
    output: str


@dataclass(frozen=True, slots=True)
class Block:
    """A block that can be run, or why it is not."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""
    prepare: tuple[str, ...] = ()
    commands: tuple[Command, ...] = field(default=())

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in which something could be run, in their order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] not in LANGUAGES:
            continue
        line = text.count("\n", 0, match.start("text"))
        told = _COMMENT.findall(match["above"])
        commands: tuple[Command, ...] = ()
        if match["language"] in SHELLS:
            commands = tuple(_commands(match["text"], line + 1, match["language"]))
        found.append(
            Block(
                page=str(page.relative_to(ROOT)),
                line=line,
                language=match["language"],
                text=match["text"],
                not_run=next(
                    (" ".join(why.split()) for what, why in told if what == "not run"), ""
                ),
                prepare=tuple(command for what, command in told if what == "prepare"),
                commands=commands,
            )
        )
    return found


def _commands(text: str, line: int, language: str) -> list[Command]:
    """Split a block into commands; in `console` each begins with "$ ", and output follows."""
    if language != "console":
        return [Command(line, text.strip(), "")]
    found: list[tuple[int, list[str], list[str]]] = []
    for number, each in enumerate(text.splitlines(), line):
        if each.startswith("$ "):
            found.append((number, [each.removeprefix("$ ")], []))
        elif found and not found[-1][2] and found[-1][1][-1].endswith("\\"):
            found[-1][1].append(each)
        elif found:
            found[-1][2].append(each)
        else:
            raise ValueError(f"line {number}: output before the first command, {each!r}")
    return [Command(at, "\n".join(said), "\n".join(out)) for at, said, out in found]

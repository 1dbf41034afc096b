"""What commands print for people: tables, and one line for a failure; see also `formats`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tailorbird.call_error import CallError
from tailorbird.errors import TailorbirdError

# A pipe has no width to wrap at: what reads it wants whole names.
_PIPE_WIDTH = 1000

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
errors = Console(stderr=True, highlight=False)


def print_rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    out.print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print one thing's properties, those that are set, one a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, Text(plain(value)))
    out.print(table)


def describe(error: TailorbirdError) -> str:
    """Say what failed; of a call in one line: the code, the reason, the field, the message.

    Where several fields are wrong, each has a line of its own.
    """
    if not isinstance(error, CallError):
        return "\n".join(map(plain, f"error: {error.message}".split("\n")))
    words = ["error:", error.code.name]
    if error.reason != error.code.name:
        words.append(error.reason)
    said = [f"{violation.field}: {violation.description}" for violation in error.violations]
    head, *more = said if len(said) == 1 else [error.message, *said]
    lines = [[*words, *(head + error.hints).split()], *([" ", *one.split()] for one in more)]
    return "\n".join(plain(" ".join(line)) for line in lines)


def plain(text: str) -> str:
    """Return `text` with what a terminal would act on written as an escape.

    Keys of records, labels and what a caller named are other people's texts.
    """
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def when(timestamp: Timestamp) -> str:
    """Say a time in UTC, to the second; "" where it is unset."""
    if not timestamp.seconds:
        return ""
    return f"{timestamp.ToDatetime(tzinfo=UTC):%Y-%m-%d %H:%M:%S}Z"


def size(count: float) -> str:
    """Say a number of bytes."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} GiB"


def last_part(name: str) -> str:
    """Return the id at a resource name's end."""
    return name.rpartition("/")[2]

"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC

import typer
from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

JsonOption = typer.Option("--json", help="Print JSON, in the fields of the API.")


def print_json(message: Message) -> None:
    """Print one message as JSON."""
    print(MessageToJson(message, preserving_proto_field_name=True))


def print_json_list(messages: Iterable[Message]) -> None:
    """Print messages as a JSON array."""
    import json

    rows = [MessageToDict(message, preserving_proto_field_name=True) for message in messages]
    print(json.dumps(rows, indent=2))


def print_rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print one thing's properties, those that are set, one a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, Text(value))
    out.print(table)


def when(timestamp: Timestamp) -> str:
    """Say a time in UTC, to the second; "" where it is unset."""
    if not timestamp.seconds:
        return ""
    return f"{timestamp.ToDatetime(tzinfo=UTC):%Y-%m-%d %H:%M:%S} UTC"


def size(count: int) -> str:
    """Say a number of bytes."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or unit == "GiB":
            break
    return f"{value:.1f} {unit}"


def last_part(name: str) -> str:
    """Return the id at a resource name's end."""
    return name.rpartition("/")[2]

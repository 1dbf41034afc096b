"""`-o`: a command's answer as a table for people, or whole, as JSON or YAML, for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message


class Output(StrEnum):
    """How a command prints what it was asked for."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"

    @property
    def is_data(self) -> bool:
        """Whether programs read it: all of the answer, in the API's own field names."""
        return self is not Output.TABLE


OutputOption = Annotated[
    Output,
    typer.Option("--output", "-o", help="A table, or all of it in the API's own fields."),
]


def print_data(
    content: Message | Iterable[Message] | Mapping[str, Message], output: Output
) -> None:
    """Print one message as an object, several as an array, named ones as an object of objects."""
    print_values(_values(content), output)


def print_values(values: Any, output: Output) -> None:
    """Print what JSON can hold."""
    print(dumped(values, output))


def dumped(values: Any, output: Output) -> str:
    """Return what JSON can hold as JSON, or as YAML, with what a terminal would act on escaped."""
    return _yaml(values) if output is Output.YAML else _json(values)


def values_of(message: Message) -> dict[str, Any]:
    """Return a message's fields as JSON has them, by the names that the API gives them."""
    return MessageToDict(message, preserving_proto_field_name=True)


def _values(content: Message | Iterable[Message] | Mapping[str, Message]) -> Any:
    if isinstance(content, Message):
        return values_of(content)
    if isinstance(content, Mapping):
        return {name: values_of(message) for name, message in content.items()}
    return [values_of(message) for message in content]


def _json(values: Any) -> str:
    text = json.dumps(values, indent=2, ensure_ascii=False)
    # Inside strings only: outside them the dump has nothing unprintable but its lines' ends.
    return "".join(one if _is_shown(one) else json.dumps(one)[1:-1] for one in text)


def _yaml(values: Any) -> str:
    # Not needed by most commands.
    import yaml

    def dump(*, allow_unicode: bool) -> str:
        return str(
            yaml.safe_dump(
                values, allow_unicode=allow_unicode, sort_keys=False, width=float("inf")
            ).removesuffix("\n")
        )

    text = dump(allow_unicode=True)
    return text if all(map(_is_shown, text)) else dump(allow_unicode=False)


def _is_shown(one: str) -> bool:
    if one == "\n":
        return True
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return one.isprintable() and one.encode(encoding, "ignore") != b""

"""Texts of requests: what no store can keep of them is refused where they come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from tailorbird.errors import InvalidArgument

_NUL = "\0"
_MAX_TOLD = 80


def check_text(field: str, value: str) -> None:
    """Raise InvalidArgument if a text has a NUL in it, which PostgreSQL keeps in none."""
    if _NUL in value:
        raise InvalidArgument(field, f"{value[:_MAX_TOLD]!r} has a NUL character in it")


def check_texts(field: str, message: Message) -> None:
    """Hold every text in a message to that, however deep; `field` is what the message is in."""
    for descriptor, value in message.ListFields():
        _check(f"{field}.{descriptor.name}", value)


def _check(field: str, value: Any) -> None:
    if isinstance(value, str):
        check_text(field, value)
    elif isinstance(value, Message):
        check_texts(field, value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _check(field, key)
            _check(field, each)
    elif not isinstance(value, bytes | int | float):
        for index, each in enumerate(value):
            _check(f"{field}[{index}]", each)

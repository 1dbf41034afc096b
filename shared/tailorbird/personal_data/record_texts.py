"""Every text in a parsed record, wherever it stands, and the record with others in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tailorbird.personal_data.findings import LabelledText

# Keys that say where a text stands in a format, and not what it is.
_OF_FORMATS = frozenset(
    """
    messages role content prompt completion instruction input output text type name tools
    tool_calls function arguments description parameters
    """.split()
)

_Slot = tuple[Any, Any, str]


def record_texts(record: Mapping[str, Any]) -> list[LabelledText]:
    """Return the record's strings in their order; keys and numbers are none.

    A string under a key that no format knows has the key as its label.
    """
    return [LabelledText(container[at], label) for container, at, label in _slots(record)]


def put_texts(record: Mapping[str, Any], texts: Sequence[str]) -> None:
    """Put `texts` in the place of the record's strings, as many and in the same order."""
    for (container, at, _), text in zip(list(_slots(record)), texts, strict=True):
        container[at] = text


def as_line(record: Mapping[str, Any], source: bytes) -> bytes:
    """Return the record as JSON, with the white space that ends `source`."""
    try:
        line = json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Half a surrogate pair in a field that training does not read.
        line = json.dumps(record).encode()
    return line + source[len(source.rstrip()) :]


def has_a_key_twice(source: bytes) -> bool:
    """Tell whether an object of a record's line has a key twice: the last one alone is read."""
    twice = False

    def seen(pairs: list[tuple[str, Any]]) -> None:
        nonlocal twice
        twice |= len({key for key, _ in pairs}) < len(pairs)

    json.loads(source.decode(), object_pairs_hook=seen)
    return twice


def _slots(record: Mapping[str, Any]) -> Iterator[_Slot]:
    # A stack of our own: how deep a record may be nested is json's to say.
    waiting: list[_Slot] = [({None: record}, None, "")]
    while waiting:
        container, at, label = waiting.pop()
        value = container[at]
        if isinstance(value, str):
            yield container, at, label
        elif isinstance(value, dict):
            keys = reversed(value)
            waiting += [(value, key, "" if key in _OF_FORMATS else key) for key in keys]
        elif isinstance(value, list):
            waiting += [(value, index, label) for index in reversed(range(len(value)))]

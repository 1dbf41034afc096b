"""Every text in a parsed record, wherever it stands, and the record with others in its place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tailorbird.personal_data.findings import LabelledText

# Keys that say where a text stands in a format, and not what it is.
_OF_FORMATS = frozenset(
    """
    messages role content prompt completion instruction input output text type name tools
    tool_calls function arguments description parameters
    """.split()
)


class _Call:
    """A function that is called: what its `arguments`, a text of JSON, are."""

    def __init__(self, function: dict[str, Any]) -> None:
        self._function = function
        self.has_a_key_twice = False
        self.arguments = json.loads(
            function["arguments"], object_pairs_hook=self._object, parse_float=_finite
        )

    def write(self) -> None:
        """Make the text anew."""
        self._function["arguments"] = _as_json(self.arguments)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        self.has_a_key_twice |= len(found) < len(pairs)
        return found


class _Slot(NamedTuple):
    container: Any
    at: Any
    label: str
    call: _Call | None = None

    @property
    def text(self) -> str:
        value = self.container[self.at]
        return value if isinstance(value, str) else json.dumps(value)


class RecordTexts:
    """The texts in a record, in their order; keys are none, and neither are a record's numbers.

    A call's arguments are read as the object they are, of which numbers are texts too: a mark in
    the place of one becomes a string, and what was an object stays one. A text under a key that no
    format knows has the key as its label.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._slots = list(_slots(record))
        calls = {id(slot.call): slot.call for slot in self._slots if slot.call is not None}
        self._unread = [call for call in calls.values() if call.has_a_key_twice]

    @property
    def all(self) -> list[LabelledText]:
        """The texts."""
        return [LabelledText(slot.text, slot.label) for slot in self._slots]

    @property
    def some_unread(self) -> bool:
        """Whether arguments have a key twice: of such a key the last value alone is read."""
        return bool(self._unread)

    def put(self, texts: Sequence[str]) -> None:
        """Put `texts` in the place of all, as many and in the same order; what is unread goes."""
        changed = {id(call): call for call in self._unread}
        for slot, text in zip(self._slots, texts, strict=True):
            if text == slot.text:
                continue
            slot.container[slot.at] = text
            if slot.call is not None:
                changed[id(slot.call)] = slot.call
        for call in changed.values():
            call.write()


def as_line(record: Mapping[str, Any], source: bytes) -> bytes:
    """Return the record as JSON, with the white space that ends `source`."""
    return _as_json(record).encode() + source[len(source.rstrip()) :]


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
    waiting = [_Slot({None: record}, None, "")]
    while waiting:
        slot = waiting.pop()
        container, at, label, call = slot
        value = container[at]
        if isinstance(value, str):
            called = _called(container) if at == "arguments" and call is None else None
            if called is None:
                yield slot
            else:
                waiting.append(_Slot({None: called.arguments}, None, "", called))
        elif isinstance(value, dict):
            waiting += [
                _Slot(value, key, "" if key in _OF_FORMATS and call is None else key, call)
                for key in reversed(value)
            ]
        elif isinstance(value, list):
            waiting += [_Slot(value, index, label, call) for index in reversed(range(len(value)))]
        elif call is not None and isinstance(value, int | float) and not isinstance(value, bool):
            yield slot


def _called(function: dict[str, Any]) -> _Call | None:
    """Return what the call's arguments are, or None if they are no object."""
    try:
        call = _Call(function)
    except (ValueError, RecursionError):
        return None
    return call if isinstance(call.arguments, dict) else None


def _as_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair.
        return json.dumps(value)
    return text


def _finite(literal: str) -> float | str:
    """Return the number, or what stands for it where it is too large to be one."""
    number = float(literal)
    return number if math.isfinite(number) else literal

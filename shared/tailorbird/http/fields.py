"""The fields of a JSON object, taken one by one: what nobody took is refused by its name.

A null stands for a field that is not given, as OpenAI's clients mean it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from tailorbird.errors import InvalidArgument

_Kind = TypeVar("_Kind")

_SHOWN_CHARS = 80
_INT32, _INT64 = 2**31, 2**63


class Fields:
    """Reads `values`, which stand at `where` in the request ("" for its top).

    Each method returns None for what is not given, and raises InvalidArgument, which names the
    field, for what is of another kind.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        self._left = {name: value for name, value in values.items() if value is not None}
        self._where = where
        self._known: set[str] = set()

    @classmethod
    def of(cls, value: object, where: str) -> Fields:
        """Read `value`, an object that stands at `where`."""
        if not isinstance(value, dict):
            raise InvalidArgument(where, f"{shown(value)} is not an object")
        return cls(value, where)

    def path(self, name: str) -> str:
        """Return the field's name from the request's top."""
        return f"{self._where}.{name}" if self._where else name

    def __contains__(self, name: str) -> bool:
        self._known.add(name)
        return name in self._left

    def any(self, name: str) -> Any:
        """Take a field of whatever kind."""
        self._known.add(name)
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        """Take a string."""
        return self._typed(name, str, "a string")

    def needed_text(self, name: str) -> str:
        """Take a string that must be there."""
        found = self.text(name)
        if found is None:
            raise InvalidArgument(self.path(name), "it is needed, and not given")
        return found

    def flag(self, name: str) -> bool | None:
        """Take true or false."""
        return self._typed(name, bool, "true or false")

    def whole(self, name: str, *, wide: bool = False) -> int | None:
        """Take a whole number, of 32 bits or, if `wide`, of 64."""
        found = self.any(name)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if found is None or (_is_number(found) and isinstance(found, int)):
            most = _INT64 if wide else _INT32
            if found is not None and not -most <= found < most:
                raise InvalidArgument(
                    self.path(name), f"{shown(found)} is not {-most} to {most - 1}"
                )
            return found
        raise InvalidArgument(self.path(name), f"{shown(found)} is not a whole number")

    def number(self, name: str) -> float | None:
        """Take a number."""
        found = self.any(name)
        if found is None:
            return None
        if not _is_number(found):
            raise InvalidArgument(self.path(name), f"{shown(found)} is not a number")
        try:
            return float(found)
        except OverflowError:
            return math.inf if found > 0 else -math.inf

    def items(self, name: str) -> list[Any] | None:
        """Take an array."""
        return self._typed(name, list, "an array")

    def inner(self, name: str) -> Fields | None:
        """Take an object."""
        found = self.any(name)
        return None if found is None else Fields.of(found, self.path(name))

    def texts(self, name: str) -> dict[str, str] | None:
        """Take an object of strings."""
        found = self._typed(name, dict, "an object")
        for key, value in (found or {}).items():
            if not isinstance(value, str):
                raise InvalidArgument(
                    self.path(name), f"{shown(key)}: {shown(value)} is not a string"
                )
        return found

    def says(self, name: str, value: str) -> bool:
        """Take a field if it says `value`; tell whether it does."""
        self._known.add(name)
        if self._left.get(name) != value:
            return False
        del self._left[name]
        return True

    def ignore(self, *names: str) -> None:
        """Take fields that change no answer, whatever they say."""
        for name in names:
            self.any(name)

    def only(self, name: str, *allowed: object, why: str) -> None:
        """Take a field that may say what is done anyway, and nothing else: `why` tells."""
        found = self.any(name)
        if found is not None and not any(
            found == one and type(found) is type(one) for one in allowed
        ):
            raise InvalidArgument(
                self.path(name), f"{shown(found)} is not supported: {why}", reason="UNSUPPORTED"
            )

    def end(self) -> None:
        """Refuse what is left: InvalidArgument (UNKNOWN_FIELD), with the nearest name there is."""
        for name in self._left:
            cut = name[:_SHOWN_CHARS]
            near = difflib.get_close_matches(cut, sorted(self._known), n=1)
            raise InvalidArgument(
                self.path(cut),
                f"this server knows no such field; {f'did you mean {near[0]}? ' if near else ''}"
                "docs/openai.md lists what it takes",
                reason="UNKNOWN_FIELD",
            )

    def _typed(self, name: str, kind: type[_Kind], said: str) -> _Kind | None:
        found = self.any(name)
        if found is None or isinstance(found, kind):
            return found
        raise InvalidArgument(self.path(name), f"{shown(found)} is not {said}")


def shown(value: object) -> str:
    """Return `value` as an error may quote it: cut, and what nests by its kind only."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 4 * _SHOWN_CHARS:
        return "a very large number"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

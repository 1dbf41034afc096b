"""What every format asks of a value in a record. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

_MAX_DEPTH = 64
"""As deep as serving lets the objects of a chat nest."""
_MAX_METADATA, _MAX_METADATA_KEY, _MAX_METADATA_VALUE = 16, 64, 512


class Unfit(ValueError):
    """A value of a record is not what it must be; the text says which one, and what is asked."""

    def __init__(self, where: str, text: str, reason: str | None = None) -> None:
        super().__init__(f"{where}: {text}" if where else text)
        self.reason = reason


def check_text(record: Mapping[str, Any], key: str, where: str = "", *, empty: bool = False) -> str:
    """Return the string `key` of `record`, whose place is `where`; it may be `empty`."""
    text = record.get(key)
    if not isinstance(text, str):
        raise Unfit(f"{where}{key}", f"a string is expected, not {kind(text)}")
    if not text and not empty:
        raise Unfit(f"{where}{key}", "empty")
    check_unicode(text, f"{where}{key}")
    return text


def check_answer(record: Mapping[str, Any], key: str, where: str = "") -> None:
    """Check a string that is trained."""
    if not check_text(record, key, where).strip():
        raise Unfit(f"{where}{key}", "only white space, which cannot be trained on")


def check_keys(record: Mapping[str, Any], where: str = "") -> None:
    """Check that every key of `record` can be printed."""
    for index, key in enumerate(record, start=1):
        check_unicode(key, f"{where}key {index}")


def check_unicode(text: str, where: str) -> None:
    """Check that `text` can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unfit(where, f"half a surrogate pair at character {error.start + 1}") from error


def parse_object(text: str, where: str) -> int:
    """Check that `text` is a JSON object; return the characters that it has."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        raise Unfit(where, f"not JSON ({str(error)[:100]})") from error
    return check_object(value, where)


def check_object(value: object, where: str) -> int:
    """Check a JSON object of a bounded depth, whatever is in it; return its characters as JSON."""
    if not isinstance(value, dict):
        raise Unfit(where, f"a JSON object is expected, not {kind(value)}")
    level: list[object] = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            break
    else:
        raise _too_deep(where)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise Unfit(where, "NaN and Infinity are no JSON values") from error
    check_unicode(text, where)
    return len(text)


def check_metadata(record: Mapping[str, Any]) -> None:
    """Check what a record says of itself, under `metadata`: slices are made by it."""
    metadata = record.get("metadata")
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise Unfit("metadata", f"an object is expected, not {kind(metadata)}")
    if len(metadata) > _MAX_METADATA:
        raise Unfit("metadata", f"{len(metadata)} keys; at most {_MAX_METADATA} are allowed")
    check_keys(metadata, "metadata.")
    for key, value in metadata.items():
        where = f"metadata.{key[:_MAX_METADATA_KEY]}"
        if not 1 <= len(key) <= _MAX_METADATA_KEY:
            raise Unfit(where, f"a key has 1 to {_MAX_METADATA_KEY} characters, not {len(key)}")
        if isinstance(value, dict | list):
            raise Unfit(where, f"a string, number or boolean is expected, not {kind(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise Unfit(where, "NaN and Infinity are no JSON values, nor is a number above 1.8e308")
        if isinstance(value, str):
            check_unicode(value, where)
            if len(value) > _MAX_METADATA_VALUE:
                raise Unfit(where, f"{len(value)} characters; at most {_MAX_METADATA_VALUE}")


def kind(value: object) -> str:
    """Say what JSON calls `value`."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _inside(value: object) -> Iterable[object]:
    """Return what nests inside `value` and may have more inside."""
    inner: Iterable[object] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list):
        inner = value
    return (one for one in inner if isinstance(one, dict | list))


def _too_deep(where: str) -> Unfit:
    return Unfit(where, f"it nests more than {_MAX_DEPTH} deep")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")

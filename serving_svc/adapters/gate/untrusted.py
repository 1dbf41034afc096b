"""Reading JSON that a tenant wrote: bounded, strict, and quoted back in few characters."""

from __future__ import annotations

import json
import math
import reprlib
from pathlib import Path
from typing import Any, NoReturn

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 100
_SHOWN.maxlong = 30
_MAX_SHOWN = 200


def shown(value: object) -> str:
    """Return the value for a message: at most 200 characters, whatever its size and depth."""
    # A tuple of long strings is long although each of them is cut.
    text = _SHOWN.repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def parse_json(data: bytes) -> Any:
    """Return the value of UTF-8 JSON; ValueError for everything else.

    Stricter than `json`, where readers differ in what they make of it: no name twice in an object,
    no NaN, no number beyond float64, no depth that the parser's stack does not hold.
    """
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_small(path: Path, max_bytes: int) -> bytes:
    """Return the file's bytes; ValueError if there are more than `max_bytes`."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it names something twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(text)} is too large")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")

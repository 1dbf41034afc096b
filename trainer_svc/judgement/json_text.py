"""Reads an answer as JSON, strictly."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parsed(text: str) -> dict[str, Any] | list[Any] | None:
    """Return the JSON object or array that the text is, or None."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")

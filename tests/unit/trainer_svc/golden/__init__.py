"""Records as an earlier release wrote them: every later one must read them, and what is added.

A sample never changes; what a release adds gets a sample of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def sample(name: str) -> Any:
    """Return a stored record, as JSON has it."""
    return json.loads((Path(__file__).parent / name).read_text())


def widened(value: Any) -> Any:
    """Return `value` as a later release might write it: with one more field in every object."""
    if isinstance(value, dict):
        return {key: widened(one) for key, one in value.items()} | {"a_later_field": {"x": [1]}}
    if isinstance(value, list):
        return [widened(one) for one in value]
    return value

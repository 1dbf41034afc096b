"""Answers that are JSON: whether they are, and how many of their fields are right.

Strictly: text around the JSON, or a fence of back-ticks, makes it none, as it does for a program
that reads the answer.
"""

from __future__ import annotations

from trainer_svc.judgement.json_schema import JsonSchema
from trainer_svc.judgement.json_text import parsed
from trainer_svc.judgement.metrics import exact_match
from trainer_svc.judgement.tokens import normalised

_Path = tuple[str | int, ...]


def json_validity(expected: str, answer: str, schema: JsonSchema | None = None) -> float:
    """Return 1 where the answer is a JSON object or array that meets the schema.

    Where the expected answer itself is none, because some records are answered in words, the exact
    match decides.
    """
    if parsed(expected) is None:
        return exact_match(expected, answer)
    value = parsed(answer)
    if value is None:
        return 0.0
    return float(schema is None or schema.is_met(value))


def field_accuracy(expected: str, answer: str) -> float:
    """Return how many leaf fields are right, of all that are in the expected answer or in this one.

    A field is right if it stands in the same place (arrays count by position) with the same value:
    numbers are equal as numbers, texts as by `exact_match`; an empty object or array is a value.
    What is not JSON has no field right; where the expected answer is none, the exact match decides.
    """
    wanted = parsed(expected)
    if wanted is None:
        return exact_match(expected, answer)
    said = parsed(answer)
    if said is None:
        return 0.0
    wanted_leaves, said_leaves = _leaves(wanted), _leaves(said)
    right = sum(
        path in said_leaves and _same(value, said_leaves[path])
        for path, value in wanted_leaves.items()
    )
    return right / len(wanted_leaves.keys() | said_leaves.keys())


def _leaves(value: object) -> dict[_Path, object]:
    """Return every leaf by its path; without recursion, however deep an answer is."""
    leaves: dict[_Path, object] = {}
    waiting: list[tuple[_Path, object]] = [((), value)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, dict) and node:
            waiting.extend((_under(path, key), child) for key, child in node.items())
        elif isinstance(node, list) and node:
            waiting.extend((_under(path, index), child) for index, child in enumerate(node))
        else:
            leaves[path] = node
    return leaves


def _under(path: _Path, key: str | int) -> _Path:
    return (*path, key)


def _same(wanted: object, said: object) -> bool:
    if isinstance(wanted, str) and isinstance(said, str):
        return normalised(wanted) == normalised(said)
    if isinstance(wanted, bool) or isinstance(said, bool):
        return wanted is said
    return wanted == said

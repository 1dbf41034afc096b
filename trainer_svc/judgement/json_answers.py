"""Answers that are JSON: whether they are, and how many of their fields are right.

Strictly: text around the JSON, or a fence of back-ticks, makes it none, as it does for a program
that reads the answer.
"""

from __future__ import annotations

from itertools import zip_longest

from trainer_svc.judgement.json_schema import JsonSchema
from trainer_svc.judgement.json_text import parsed
from trainer_svc.judgement.metrics import exact_match
from trainer_svc.judgement.tokens import normalised


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
    right, leaves = _compared(wanted, said)
    return right / leaves


class _Absent:
    """Stands where one of two documents has nothing."""


def _compared(wanted: object, said: object) -> tuple[int, int]:
    """Return how many leaves are right, and how many there are in either.

    Without recursion, however deep an answer is, and in memory for what is still to be compared.
    """
    right = leaves = 0
    waiting = [(wanted, said)]
    while waiting:
        one, other = waiting.pop()
        if isinstance(one, dict) and isinstance(other, dict) and one and other:
            keys = one.keys() | other.keys()
            waiting += [(one.get(key, _Absent), other.get(key, _Absent)) for key in keys]
        elif isinstance(one, list) and isinstance(other, list) and one and other:
            waiting += zip_longest(one, other, fillvalue=_Absent)
        elif _has_leaves_inside(one) or _has_leaves_inside(other):
            leaves += _leaves(one) + _leaves(other)
        else:
            right += _same(one, other)
            leaves += 1
    return right, leaves


def _leaves(value: object) -> int:
    """Return how many leaves a document has; an empty object or array is one."""
    leaves = 0
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and node:
            waiting += node.values()
        elif isinstance(node, list) and node:
            waiting += node
        else:
            leaves += node is not _Absent
    return leaves


def _has_leaves_inside(value: object) -> bool:
    return isinstance(value, dict | list) and bool(value)


def _same(wanted: object, said: object) -> bool:
    if isinstance(wanted, str) and isinstance(said, str):
        return normalised(wanted) == normalised(said)
    if isinstance(wanted, bool) or isinstance(said, bool):
        return wanted is said
    return wanted == said

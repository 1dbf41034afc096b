"""What it costs to check answers against a JSON schema, counted so that it ends whatever they are.

A worker's thread checks them, beside the jobs of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MAX_STEPS = 40_000
"""Of one answer: references that double at each step would never end."""

MAX_ALL_STEPS = 2_000_000
"""Of all answers together: about 20 seconds, whatever the schema and the answers are."""

STEP_SECONDS = 1e-5
"""What a step takes at most, or about."""

_MAX_OVERRUNS = 10
_VALUES_A_STEP = 16
_CHARACTERS_A_VALUE = 64
_BITS_A_VALUE = 256
_PAIRS_A_STEP = 500
_AS_A_WHOLE = ("const", "enum", "not", "oneOf")
"""Keywords whose value is compared, or written into the error, with all that is in it."""

SQUARE = ("unevaluatedItems", "unevaluatedProperties")
"""Keywords that look each item up in a list, which every part of the schema makes longer."""


class OverBudgetError(Exception):
    """The answer cannot be checked within the bounds."""


class Budget:
    """Steps that are spent on answers to one schema.

    A step is a keyword, or a part of the schema, that is looked at. Every keyword may write what it
    looks at into an error, which nobody reads: what is long costs further steps.
    """

    def __init__(self, schema: object) -> None:
        self._schema = _sizes(schema)
        self._whole = self._schema.get(id(schema), 1)
        self._answer: dict[int, int] = {}
        self._each = 1
        self._steps = 0
        self._all_steps = 0
        self._overruns = 0

    @property
    def is_exhausted(self) -> bool:
        """Tell whether so much was spent on answers that no more are checked."""
        return self._overruns >= _MAX_OVERRUNS or self._all_steps >= MAX_ALL_STEPS

    @contextmanager
    def spent_on(self, answer: object) -> Iterator[None]:
        """Count what is spent within as this answer's, which stays as it is meanwhile."""
        self._answer = _sizes(answer)
        self._steps, self._each = len(self._answer) // _VALUES_A_STEP, 1
        try:
            yield
        except OverBudgetError:
            self._overruns += 1
            raise
        finally:
            self._all_steps += min(self._steps, MAX_STEPS)
            self._answer = {}

    def spend(self, steps: int) -> None:
        """Take steps; OverBudgetError if the answer has had too many."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise OverBudgetError

    def look(self, keyword: str, value: object, instance: object) -> None:
        """Take the steps of a keyword of this value."""
        seen = _size(instance, self._answer) + self._size_of(keyword, value)
        self.spend(1 + seen // _VALUES_A_STEP)

    def part(self) -> None:
        """Take the step of a part of the schema."""
        self.spend(self._each)

    @contextmanager
    def within(self, instance: object) -> Iterator[None]:
        """Let a part within the check of one of SQUARE cost what it makes that take."""
        before = self._each
        if isinstance(instance, dict | list):
            # Of an array a part may tell of more places than it has.
            longer = len(instance) + (self._whole if isinstance(instance, list) else 0)
            self._each += len(instance) * longer // _PAIRS_A_STEP
            self.part()
        try:
            yield
        finally:
            self._each = before

    def _size_of(self, keyword: str, value: object) -> int:
        if keyword in _AS_A_WHOLE:
            return _size(value, self._schema)
        return len(value) if isinstance(value, dict | list) else 0


def _sizes(value: object) -> dict[int, int]:
    """Return how many values are in each object and array of a document, by its id."""
    nodes = [value]
    for node in nodes:
        nodes += [each for each in _inside(node) if isinstance(each, dict | list)]
    sizes: dict[int, int] = {}
    for node in reversed(nodes):
        sizes[id(node)] = 1 + sum(_size(each, sizes) for each in _inside(node))
    return sizes


def _inside(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        yield from node
        yield from node.values()
    elif isinstance(node, list):
        yield from node


def _size(value: object, sizes: dict[int, int]) -> int:
    if isinstance(value, dict | list):
        return sizes.get(id(value), 0)
    if isinstance(value, str):
        return 1 + len(value) // _CHARACTERS_A_VALUE
    return 1 + (value.bit_length() // _BITS_A_VALUE if isinstance(value, int) else 0)

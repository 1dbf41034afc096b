"""A tenant's JSON schema, checked within bounds: it cannot fetch, nor run for long."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import jsonschema
import jsonschema.validators
import regex
from jsonschema.exceptions import UnknownType
from referencing import Registry
from referencing.exceptions import Unresolvable

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement import json_pattern
from trainer_svc.judgement.json_cost import SQUARE, STEP_SECONDS, Budget, OverBudgetError
from trainer_svc.judgement.json_text import parsed

MAX_CHARACTERS = 16_384
MAX_PLACES = 1000
"""Schemas within one, and itself: to check them takes up to some tenths of a second."""
MAX_ANCHORS = 50
"""Each is looked for in the others, for each reference."""

_PATTERN_SECONDS = 0.05
_REFUSED = {
    "$schema": "only the schema as a whole names its draft",
    "patternProperties": "its patterns cannot be bounded in time",
    "$dynamicRef": "only $ref within the schema is followed",
    "$recursiveRef": "only $ref within the schema is followed",
}
_IDS = ("$id", "id")
_ANCHORS = ("$anchor", "$dynamicAnchor")
_NAMED = ("properties", "$defs", "definitions", "dependentSchemas", "dependentRequired")
_VALUES = ("const", "enum", "default", "examples")
_MALFORMED = (TypeError, ValueError, LookupError, AttributeError, UnknownType)
_Check = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


class JsonSchema:
    """A JSON schema, of the draft that its `$schema` names, else of 2020-12.

    InvalidArgument: `text` is no schema, is too long, or asks for what is not done here (references
    outside of itself, patterns over names of properties).
    """

    def __init__(self, text: str, field: str = "job.spec.evaluation.json_schema") -> None:
        schema = _read(text, field)
        draft = _draft(schema, field)
        try:
            _check_size(schema, field)
            # Patterns first: the draft's own check compiles them.
            places = _check_keywords(schema, field)
            _check_schema(draft, schema)
        except jsonschema.SchemaError as error:
            at = "/".join(str(part) for part in error.path)[:100] or "its top"
            raise InvalidArgument(
                field, f"not a JSON schema: at {at}: {error.message[:200]}"
            ) from error
        except RecursionError as error:
            raise InvalidArgument(field, "nested too deeply") from error
        self._budget = Budget(schema)
        self._validator = _bounded(draft, self._budget)(schema, registry=Registry())
        self._check_references(places, field)

    def is_met(self, value: object) -> bool:
        """Tell whether a parsed answer meets the schema; one that cannot be checked does not."""
        if self.is_exhausted:
            return False
        try:
            with self._budget.spent_on(value):
                return bool(self._validator.is_valid(value))
        except (OverBudgetError, RecursionError, Unresolvable, ArithmeticError):
            # Arithmetic: a number that is too large to be divided.
            return False
        except _MALFORMED:
            # No draft knows of the place that a $ref leads to, and it may be anything.
            return False

    @property
    def is_exhausted(self) -> bool:
        """Tell whether so much was spent on answers that no more are checked."""
        return self._budget.is_exhausted

    def is_met_by_any(self, answers: Sequence[str]) -> bool:
        """Tell whether any of the answers that are JSON meets the schema."""
        values = (value for answer in answers if (value := parsed(answer)) is not None)
        return any(self.is_met(value) for value in values)

    def _check_references(self, places: Collection[int], field: str) -> None:
        """Resolve every `$ref` once, so that one to nowhere is told now and not at an answer.

        One to what is no schema is refused: nothing in there has been checked.
        """
        resolver = self._validator._resolver  # noqa: SLF001 - the only way to it
        for reference in _references(self._validator.schema):
            try:
                found = resolver.lookup(reference).contents
            except (Unresolvable, *_MALFORMED) as error:
                raise InvalidArgument(
                    field, f"$ref {reference[:100]!r} leads nowhere in the schema"
                ) from error
            if not isinstance(found, bool) and id(found) not in places:
                raise InvalidArgument(field, f"$ref {reference[:100]!r} leads to no schema")


def _bounded(draft: Any, budget: Budget) -> Any:
    """Return the draft's class, all of whose looks at an answer spend the budget."""

    def counted(name: str, check: _Check) -> _Check:
        def spend(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            budget.look(name, value, instance)
            with budget.within(instance) if name in SQUARE else nullcontext():
                yield from check(validator, value, instance, schema) or ()

        return spend

    def pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
        if not isinstance(instance, str):
            return
        before = time.thread_time()
        found = _found(pattern, instance)
        budget.spend(int((time.thread_time() - before) / STEP_SECONDS))
        if not found:
            yield jsonschema.ValidationError(f"does not match {pattern[:100]!r}")

    ours: dict[str, _Check] = {"pattern": pattern, "uniqueItems": _unique}
    checks = {**draft.VALIDATORS, **ours}
    bounded: Any = jsonschema.validators.extend(
        draft, {name: counted(name, check) for name, check in checks.items()}
    )
    unbounded = bounded.evolve

    def evolve(validator: Any, **changes: Any) -> Any:
        # What unevaluated keywords look for follows parts, and no keyword's check.
        budget.part()
        return unbounded(validator, **changes)

    bounded.evolve = evolve
    return bounded


def _read(text: str, field: str) -> dict[str, Any]:
    if len(text) > MAX_CHARACTERS:
        raise InvalidArgument(field, f"{len(text)} characters; at most {MAX_CHARACTERS}")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(field, f"not JSON: {str(error)[:200]}") from error
    if not isinstance(schema, dict):
        raise InvalidArgument(field, "a JSON object is expected")
    return schema


def _draft(schema: dict[str, Any], field: str) -> Any:
    """Return the class of the draft that the schema names, and take its names out of it.

    A part that names a draft is checked by that draft's own class, without our bounds: so would be
    the whole schema, where a `$ref` leads to it.
    """
    named = schema.pop("$schema", "")
    if not isinstance(named, str):
        raise InvalidArgument(field, "not a JSON schema: $schema is no text")
    for name in _IDS:
        if isinstance(schema.get(name), str):
            del schema[name]
    latest = jsonschema.Draft202012Validator
    with suppress(ValueError):  # no URI
        return jsonschema.validators.validator_for({"$schema": named}, default=latest)
    return latest


def _check_size(schema: object, field: str) -> None:
    places = {id(schema)}
    anchors = sum(keyword in _ANCHORS for keyword, _ in _keywords(schema, places))
    if len(places) > MAX_PLACES:
        raise InvalidArgument(field, f"{len(places)} schemas within it; at most {MAX_PLACES}")
    if anchors > MAX_ANCHORS:
        raise InvalidArgument(
            field, f"{anchors} anchors; at most {MAX_ANCHORS}, and any number of references #/…"
        )


def _check_schema(draft: Any, schema: object) -> None:
    """Raise SchemaError for what the draft does not allow; in a time linear in the schema's."""
    linear = jsonschema.validators.extend(draft, {"uniqueItems": _unique})
    meta = {name: value for name, value in draft.META_SCHEMA.items() if name != "$schema"}
    for error in linear(meta, format_checker=draft.FORMAT_CHECKER).iter_errors(schema):
        raise jsonschema.SchemaError.create_from(error)


def _check_keywords(schema: object, field: str) -> frozenset[int]:
    """Refuse keywords that cannot be bounded; return the ids of the places where schemas stand."""
    places = {id(schema)}
    patterns: list[str] = []
    for keyword, value in _keywords(schema, places):
        if keyword in _REFUSED:
            raise InvalidArgument(field, f"{keyword}: not supported: {_REFUSED[keyword]}")
        if keyword in _IDS and isinstance(value, str):
            raise InvalidArgument(field, f"{keyword}: only the schema as a whole has one")
        if keyword == "$ref" and not str(value).startswith("#"):
            raise InvalidArgument(
                field, f"$ref {str(value)[:100]!r}: only references within the schema (#/…)"
            )
        if keyword == "pattern":
            patterns.append(str(value))
    _check_patterns(patterns, field)
    return frozenset(places)


def _check_patterns(patterns: Sequence[str], field: str) -> None:
    room = json_pattern.MAX_PARTS
    for pattern in patterns:
        try:
            room -= json_pattern.parts(pattern)
            if room < 0:
                raise ValueError("too large with its repeats and the other patterns")
            regex.compile(pattern, regex.VERSION0)
        except (ValueError, regex.error) as error:
            why = getattr(error, "msg", None) or str(error)
            raise InvalidArgument(field, f"pattern {pattern[:100]!r}: {why}") from error


def _keywords(schema: object, places: set[int] | None = None) -> Iterator[tuple[str, object]]:
    """Yield every keyword with its value; names of properties and plain values are none.

    The ids of the objects that have keywords are put into `places`.
    """
    if isinstance(schema, list):
        for item in schema:
            yield from _keywords(item, places)
    if not isinstance(schema, dict):
        return
    if places is not None:
        places.add(id(schema))
    for keyword, value in schema.items():
        yield keyword, value
        if keyword in _VALUES:
            continue
        if keyword in _NAMED and isinstance(value, dict):
            yield from _keywords(list(value.values()), places)
        else:
            yield from _keywords(value, places)


def _references(schema: object) -> Iterator[str]:
    return (str(value) for keyword, value in _keywords(schema) if keyword == "$ref")


def _unique(_: Any, wanted: bool, instance: Any, __: Any) -> Iterator[Any]:
    """Compare by what each item is made of: item by item takes the square of their number."""
    if not wanted or not isinstance(instance, list):
        return
    if len({_hashable(item) for item in instance}) < len(instance):
        yield jsonschema.ValidationError("has an item twice")


def _hashable(value: object) -> Hashable:
    """Return what is equal for equal JSON values: 1 is 1.0 there, and true is not 1."""
    if isinstance(value, list):
        return ("list", *map(_hashable, value))
    if isinstance(value, dict):
        return ("dict", frozenset((key, _hashable(item)) for key, item in value.items()))
    return (type(value).__name__, value) if isinstance(value, bool | str) else value


def _found(pattern: str, text: str) -> bool:
    try:
        found = regex.search(pattern, text, regex.VERSION0, timeout=_PATTERN_SECONDS)
    except TimeoutError as error:
        raise OverBudgetError from error
    return found is not None

"""A tenant's JSON schema, checked within bounds: it cannot fetch, nor run for long."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import jsonschema
import jsonschema.validators
import regex
from referencing import Registry
from referencing.exceptions import Unresolvable

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.json_text import parsed

MAX_CHARACTERS = 16_384

_MAX_STEPS = 20_000
"""Keywords looked at for one answer: references that double at each step would never end."""

_MAX_ALL_STEPS = 1_000_000
"""For all answers together: about 20 seconds, whatever the schema and the answers are."""

_PATTERN_SECONDS = 0.05
_MAX_OVERRUNS = 10
_REFUSED = {
    "$schema": "only the schema as a whole names its draft",
    "patternProperties": "its patterns cannot be bounded in time",
    "$dynamicRef": "only $ref within the schema is followed",
    "$recursiveRef": "only $ref within the schema is followed",
}
_IDS = ("$id", "id")
_NAMED = ("properties", "$defs", "definitions", "dependentSchemas", "dependentRequired")
_SQUARE = ("unevaluatedItems", "unevaluatedProperties")
"""Keywords whose check takes the square of how many there are."""

_PAIRS_A_STEP = 1000
_VALUES = ("const", "enum", "default", "examples")
_Check = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


class _OverBudgetError(Exception):
    """The answer cannot be checked within the bounds."""


class JsonSchema:
    """A JSON schema, of the draft that its `$schema` names, else of 2020-12.

    InvalidArgument: `text` is no schema, is too long, or asks for what is not done here (references
    outside of itself, patterns over names of properties).
    """

    def __init__(self, text: str, field: str = "job.spec.evaluation.json_schema") -> None:
        self._steps = 0
        self._all_steps = 0
        self._overruns = 0
        schema = _read(text, field)
        draft = _draft(schema, field)
        bounded = jsonschema.validators.extend(draft, self._bounded(draft.VALIDATORS))
        try:
            _check_schema(draft, schema)
            places = _check_keywords(schema, field)
        except jsonschema.SchemaError as error:
            at = "/".join(str(part) for part in error.path)[:100] or "its top"
            raise InvalidArgument(
                field, f"not a JSON schema: at {at}: {error.message[:200]}"
            ) from error
        except RecursionError as error:
            raise InvalidArgument(field, "nested too deeply") from error
        self._validator = bounded(schema, registry=Registry())
        self._check_references(places, field)

    def is_met(self, value: object) -> bool:
        """Tell whether a parsed answer meets the schema; one that cannot be checked does not."""
        if self.is_exhausted:
            return False
        self._steps = 0
        try:
            return bool(self._validator.is_valid(value))
        except _OverBudgetError:
            self._overruns += 1
            return False
        except (RecursionError, Unresolvable, ArithmeticError):
            # Arithmetic: a number that is too large to be divided.
            return False
        finally:
            self._all_steps += self._steps

    @property
    def is_exhausted(self) -> bool:
        """Tell whether so much was spent on answers that no more are checked."""
        return self._overruns >= _MAX_OVERRUNS or self._all_steps >= _MAX_ALL_STEPS

    def is_met_by_any(self, answers: Sequence[str]) -> bool:
        """Tell whether any of the answers that are JSON meets the schema."""
        values = [value for answer in answers if (value := parsed(answer)) is not None]
        return any(self.is_met(value) for value in values)

    def _bounded(self, keywords: Mapping[str, _Check]) -> dict[str, _Check]:
        """Return the keywords' checks, each of which spends a step."""

        def counted(name: str, check: _Check) -> _Check:
            def spend(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
                self._steps += 1 + _cost(name, instance)
                if self._steps > _MAX_STEPS:
                    raise _OverBudgetError
                yield from check(validator, value, instance, schema) or ()

            return spend

        ours: dict[str, _Check] = {"pattern": _pattern, "uniqueItems": _unique}
        return {name: counted(name, check) for name, check in {**keywords, **ours}.items()}

    def _check_references(self, places: Collection[int], field: str) -> None:
        """Resolve every `$ref` once, so that one to nowhere is told now and not at an answer.

        One to what is no schema is refused: nothing in there has been checked.
        """
        resolver = self._validator._resolver  # noqa: SLF001 - the only way to it
        for reference in _references(self._validator.schema):
            try:
                found = resolver.lookup(reference).contents
            except Unresolvable as error:
                raise InvalidArgument(
                    field, f"$ref {reference[:100]!r} leads nowhere in the schema"
                ) from error
            if not isinstance(found, bool) and id(found) not in places:
                raise InvalidArgument(field, f"$ref {reference[:100]!r} leads to no schema")


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


def _check_schema(draft: Any, schema: object) -> None:
    """Raise SchemaError for what the draft does not allow; in a time linear in the schema's."""
    linear = jsonschema.validators.extend(draft, {"uniqueItems": _unique})
    meta = {name: value for name, value in draft.META_SCHEMA.items() if name != "$schema"}
    for error in linear(meta, format_checker=draft.FORMAT_CHECKER).iter_errors(schema):
        raise jsonschema.SchemaError.create_from(error)


def _check_keywords(schema: object, field: str) -> frozenset[int]:
    """Refuse keywords that cannot be bounded; return the ids of the places where schemas stand."""
    places = {id(schema)}
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
            _check_pattern(str(value), field)
    return frozenset(places)


def _check_pattern(pattern: str, field: str) -> None:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise InvalidArgument(field, f"pattern {pattern[:100]!r}: {error.msg}") from error


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


def _cost(keyword: str, instance: object) -> int:
    """Return the further steps of a check that takes more than one look at each item."""
    if keyword in _SQUARE and isinstance(instance, dict | list):
        return len(instance) ** 2 // _PAIRS_A_STEP
    return 0


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


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
    if not isinstance(instance, str):
        return
    try:
        found = regex.search(pattern, instance, timeout=_PATTERN_SECONDS)
    except TimeoutError as error:
        raise _OverBudgetError from error
    if found is None:
        yield jsonschema.ValidationError(f"does not match {pattern[:100]!r}")

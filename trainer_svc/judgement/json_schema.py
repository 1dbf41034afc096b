"""A tenant's JSON schema, checked within bounds: it cannot fetch, nor run for long."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    "patternProperties": "its patterns cannot be bounded in time",
    "$dynamicRef": "only $ref within the schema is followed",
    "$recursiveRef": "only $ref within the schema is followed",
}
_NAMED = ("properties", "$defs", "definitions", "dependentSchemas", "dependentRequired")
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
        draft = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        try:
            draft.check_schema(schema)
            _check_keywords(schema, field)
        except jsonschema.SchemaError as error:
            at = "/".join(str(part) for part in error.path)[:100] or "its top"
            raise InvalidArgument(
                field, f"not a JSON schema: at {at}: {error.message[:200]}"
            ) from error
        except RecursionError as error:
            raise InvalidArgument(field, "nested too deeply") from error
        bounded = jsonschema.validators.extend(draft, self._bounded(draft.VALIDATORS))
        self._validator = bounded(schema, registry=Registry())
        self._check_references(field)

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
        except (RecursionError, Unresolvable):
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

        def counted(check: _Check) -> _Check:
            def spend(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
                self._steps += 1
                if self._steps > _MAX_STEPS:
                    raise _OverBudgetError
                yield from check(validator, value, instance, schema) or ()

            return spend

        return {name: counted(check) for name, check in {**keywords, "pattern": _pattern}.items()}

    def _check_references(self, field: str) -> None:
        """Resolve every `$ref` once, so that one to nowhere is told now and not at an answer."""
        resolver = self._validator._resolver  # noqa: SLF001 - the only way to it
        for reference in _references(self._validator.schema):
            try:
                resolver.lookup(reference)
            except Unresolvable as error:
                raise InvalidArgument(
                    field, f"$ref {reference[:100]!r} leads nowhere in the schema"
                ) from error


def _read(text: str, field: str) -> dict[str, Any] | bool:
    if len(text) > MAX_CHARACTERS:
        raise InvalidArgument(field, f"{len(text)} characters; at most {MAX_CHARACTERS}")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(field, f"not JSON: {str(error)[:200]}") from error
    if not isinstance(schema, dict):
        raise InvalidArgument(field, "a JSON object is expected")
    return schema


def _check_keywords(schema: object, field: str) -> None:
    for keyword, value in _keywords(schema):
        if keyword in _REFUSED:
            raise InvalidArgument(field, f"{keyword}: not supported: {_REFUSED[keyword]}")
        if keyword == "$ref" and not str(value).startswith("#"):
            raise InvalidArgument(
                field, f"$ref {str(value)[:100]!r}: only references within the schema (#/…)"
            )
        if keyword == "pattern":
            _check_pattern(str(value), field)


def _check_pattern(pattern: str, field: str) -> None:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise InvalidArgument(field, f"pattern {pattern[:100]!r}: {error.msg}") from error


def _keywords(schema: object) -> Iterator[tuple[str, object]]:
    """Yield every keyword with its value; names of properties and plain values are none."""
    if isinstance(schema, list):
        for item in schema:
            yield from _keywords(item)
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        yield keyword, value
        if keyword in _VALUES:
            continue
        if keyword in _NAMED and isinstance(value, dict):
            yield from _keywords(list(value.values()))
        else:
            yield from _keywords(value)


def _references(schema: object) -> Iterator[str]:
    return (str(value) for keyword, value in _keywords(schema) if keyword == "$ref")


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
    if not isinstance(instance, str):
        return
    try:
        found = regex.search(pattern, instance, timeout=_PATTERN_SECONDS)
    except TimeoutError as error:
        raise _OverBudgetError from error
    if found is None:
        yield jsonschema.ValidationError(f"does not match {pattern[:100]!r}")

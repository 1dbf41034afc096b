"""Schemas and answers that would take hours or all memory: counted, they end soon."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from trainer_svc.judgement import json_cost
from trainer_svc.judgement.json_schema import JsonSchema

STRING = {"type": "string"}


def schema(value: object) -> JsonSchema:
    return JsonSchema(json.dumps(value))


def test_all_answers_together_may_cost_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_cost, "MAX_ALL_STEPS", 250)
    costly = schema({"items": {"type": "integer"}})
    assert (costly.is_met([1] * 100), costly.is_exhausted) == (True, False)
    assert (costly.is_met([1] * 100), costly.is_exhausted) == (True, True)
    assert not costly.is_met([1])


@pytest.mark.parametrize(
    ("costly", "short", "long"),
    [
        # Every branch that fails writes the whole text down.
        (
            {"items": {"anyOf": [{"type": "null"}] * 500 + [STRING]}},
            ["x" * 100],
            ["x" * 2**20],
        ),
        ({"allOf": [{"not": STRING}] * 499}, [1] * 100, [1] * 20_000),
        ({"items": {"enum": list(range(2500))}}, [2499] * 20, [2499] * 2000),
        # Of each value all is compared.
        (
            {"items": {"enum": [[0] * 80 + [last] for last in range(50)]}},
            [[0] * 80 + [49]] * 20,
            [[0] * 80 + [49]] * 300,
        ),
        ({"allOf": [{"uniqueItems": True}] * 500}, list(range(100)), list(range(20_000))),
        (
            {"allOf": [{"not": {"additionalProperties": False}}] * 300},
            dict.fromkeys(map(str, range(100))),
            dict.fromkeys(map(str, range(20_000))),
        ),
        # A part without a keyword is looked at all the same.
        ({"items": {}}, [1] * 100, [1] * 50_000),
        ({"items": {"required": []}}, [{}] * 100, [{}] * 20_000),
        (
            {"items": {"anyOf": [{"maximum": 1}] * 60 + [{"minimum": 1}]}},
            [10] * 200,
            [10**4000] * 200,
        ),
    ],
)
def test_an_answer_that_takes_long_is_not_met(costly: object, short: Any, long: Any) -> None:
    assert schema(costly).is_met(short)
    assert not schema(costly).is_met(long)


def test_errors_that_nobody_reads_take_no_memory_to_speak_of() -> None:
    branches = schema({"items": {"anyOf": [{"type": "null"}] * 500 + [STRING]}})
    answer = ["x" * 2**20]
    tracemalloc.start()
    assert not branches.is_met(answer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20


def test_parts_that_double_for_unevaluated_properties_end() -> None:
    def both(following: int) -> dict[str, Any]:
        part = {"$ref": f"#/$defs/s{following}"}
        return {"dependentSchemas": {"x": part, "y": part}}

    parts = {f"s{number}": both(number + 1) for number in range(60)}
    bomb = {"unevaluatedProperties": True, **both(0), "$defs": {**parts, "s60": {}}}
    assert not schema(bomb).is_met({"x": 1, "y": 1})
    assert schema(bomb).is_met({"x": 1})


def test_each_part_makes_what_unevaluated_properties_look_up_longer() -> None:
    named: dict[str, Any] = {"properties": {str(number): {} for number in range(400)}}
    many = schema({"unevaluatedProperties": True, "allOf": [named] + [{"$ref": "#/allOf/0"}] * 300})
    assert many.is_met(dict.fromkeys(map(str, range(10))))
    assert not many.is_met(dict.fromkeys(map(str, range(390, 1000))))


def test_what_comes_after_unevaluated_items_costs_what_it_does() -> None:
    listed: dict[str, Any] = {"items": {}}
    two = schema({"properties": {"a": {"unevaluatedItems": False, **listed}, "b": listed}})
    assert two.is_met({"a": [1] * 200, "b": [1] * 3000})


def test_patterns_cost_what_they_take() -> None:
    # Some milliseconds for each text, which is far from the time that one may take.
    slow = schema({"items": {"pattern": "^(a|a)+$|!$"}})
    assert slow.is_met(["a" * 14 + "!"])
    assert not slow.is_met(["a" * 14 + "!"] * 3000)


def test_what_one_answer_cost_is_not_the_next_ones() -> None:
    squares = schema({"unevaluatedItems": False, "items": {}})
    assert not squares.is_met([1] * 6000)
    assert squares.is_met([1] * 100)


def test_an_answer_that_is_far_too_long_costs_no_more_than_one_that_is_too_long() -> None:
    squares = schema({"unevaluatedItems": False, "items": {}})
    for _ in range(3):
        assert not squares.is_met([1] * 50_000)
    assert not squares.is_exhausted


def test_of_answers_one_is_read_at_a_time() -> None:
    answers = [json.dumps([[number] for number in range(10_000)])] * 20
    given = schema({"type": "object"})
    tracemalloc.start()
    assert not given.is_met_by_any(answers)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20

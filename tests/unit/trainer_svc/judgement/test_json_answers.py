"""JSON answers: their fields, their validity, and schemas that are wrong or would not end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement import json_schema
from trainer_svc.judgement.json_answers import field_accuracy, json_validity
from trainer_svc.judgement.json_schema import MAX_CHARACTERS, JsonSchema
from trainer_svc.judgement.json_text import parsed

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict | list))


def schema(value: object) -> JsonSchema:
    return JsonSchema(json.dumps(value))


@pytest.mark.parametrize(
    ("expected", "answer", "share"),
    [
        ({"a": 1, "b": "x"}, {"b": " x ", "a": 1.0}, 1),
        ({"a": 1, "b": "x"}, {"a": 1}, 1 / 2),
        # What is said besides counts against it.
        ({"a": 1}, {"a": 1, "b": 2, "c": {"d": 3}}, 1 / 3),
        ({"a": [1, 2, 3]}, {"a": [1, 3, 2]}, 1 / 3),
        ({"a": True}, {"a": 1}, 0),
        ({"a": 1}, {"a": True}, 0),
        ({"a": "1"}, {"a": 1}, 0),
        ({"a": None}, {"a": None}, 1),
        ({"a": {}, "b": []}, {"a": {}, "b": {}}, 1 / 2),
        ({}, {}, 1),
        ([], {}, 0),
    ],
)
def test_fields_by_hand(expected: object, answer: object, share: float) -> None:
    assert field_accuracy(json.dumps(expected), json.dumps(answer)) == pytest.approx(share)


@settings(deadline=None, max_examples=50)
@given(DOCUMENTS, DOCUMENTS)
def test_fields_are_symmetric_and_between_0_and_1(first: object, second: object) -> None:
    one, two = json.dumps(first), json.dumps(second)
    assert 0 <= field_accuracy(one, two) <= 1
    assert field_accuracy(one, two) == field_accuracy(two, one)
    assert field_accuracy(one, one) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no",
        "3",
        '"text"',
        '```json\n{"a": 1}\n```',
        '{"a": NaN}',
        "[" * 100_000,
        "[" + "9" * 5000 + "]",
        '{"a": 1',
        "\0",
    ],
)
def test_what_is_no_json_has_no_field_right(answer: str) -> None:
    assert parsed(answer) is None
    assert field_accuracy('{"a": 1}', answer) == 0
    assert json_validity('{"a": 1}', answer) == 0


def test_a_deep_answer_is_read() -> None:
    deep = "[" * 900 + "]" * 900
    assert field_accuracy(deep, deep) == 1


def test_a_record_that_is_answered_in_words_is_matched() -> None:
    assert field_accuracy("none", "none") == json_validity("none", "none") == 1
    assert field_accuracy("none", "{}") == json_validity("none", "{}") == 0


def test_validity_is_by_the_schema() -> None:
    given_ = schema({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}})
    assert json_validity("{}", '{"a": 1}', given_) == 1
    assert json_validity("{}", '{"a": "1"}', given_) == 0
    assert json_validity("{}", "{}", given_) == 0
    assert json_validity("{}", "{}") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 9000, "not JSON"),
        ("[]", "an object is expected|a JSON object is expected"),
        (" " * (MAX_CHARACTERS + 1), "at most 16384"),
        ('{"type": "objekt"}', "not a JSON schema: at type"),
        ('{"$ref": "https://example.com/s.json"}', "only references within"),
        ('{"items": {"$ref": "file:///etc/passwd"}}', "only references within"),
        ('{"$ref": "#/$defs/none"}', "leads nowhere"),
        ('{"patternProperties": {"(a+)+$": {}}}', "patternProperties: not supported"),
        ('{"allOf": [{"$dynamicRef": "#x"}]}', "dynamicRef: not supported"),
        ('{"pattern": "("}', "not a JSON schema|pattern"),
        ('{"not":' * 300 + "{}" + "}" * 300, "nested too deeply"),
    ],
)
def test_a_schema_that_is_wrong_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as refused:
        JsonSchema(text)
    assert refused.value.field == "job.spec.evaluation.json_schema"
    assert len(refused.value.message) < 1000


def test_a_property_may_be_named_like_a_keyword() -> None:
    named = schema({"properties": {"patternProperties": {"type": "string"}, "$ref": {"const": 1}}})
    assert named.is_met({"patternProperties": "x", "$ref": 1})
    assert not named.is_met({"patternProperties": 3})
    assert schema({"const": {"$ref": "x"}}).is_met({"$ref": "x"})


def test_references_within_the_schema_are_followed() -> None:
    tree: dict[str, Any] = {"type": "object", "additionalProperties": {"$ref": "#"}}
    assert schema(tree).is_met({"a": {"b": {}}})
    assert not schema(tree).is_met({"a": {"b": 1}})


def test_references_that_double_at_each_step_end() -> None:
    steps = {
        f"s{i}": {"allOf": [{"$ref": f"#/$defs/s{i + 1}"}, {"$ref": f"#/$defs/s{i + 1}"}]}
        for i in range(60)
    }
    bomb = schema({"$ref": "#/$defs/s0", "$defs": {**steps, "s60": {}}})
    assert not bomb.is_met({})


def test_a_reference_to_itself_ends() -> None:
    assert not schema({"$ref": "#"}).is_met({})


def test_a_pattern_that_explodes_is_not_met_and_soon_not_tried() -> None:
    exploding = schema({"items": {"pattern": "^(a|a)+$"}})
    assert exploding.is_met(["aa"])
    for _ in range(11):
        assert not exploding.is_met(["a" * 5000 + "!"])
    assert not exploding.is_met(["aa"])


def test_all_answers_together_may_cost_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_schema, "_MAX_ALL_STEPS", 100)
    costly = schema({"items": {"type": "integer"}})
    assert (costly.is_met([1] * 98), costly.is_exhausted) == (True, False)
    assert (costly.is_met([1]), costly.is_exhausted) == (True, True)
    assert not costly.is_met([1])


def test_a_pattern_is_of_texts_only() -> None:
    assert schema({"items": {"pattern": "^a"}}).is_met([1, "ab"])
    assert not schema({"items": {"pattern": "^a"}}).is_met(["b"])


def test_an_older_draft_is_read_as_such() -> None:
    draft4 = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1}
    old = schema({"items": {**draft4, "exclusiveMinimum": True}} | {"$schema": draft4["$schema"]})
    assert not old.is_met([1])
    assert old.is_met([2])


def test_whether_any_answer_meets_it() -> None:
    given_ = schema({"required": ["a"]})
    assert given_.is_met_by_any(["none", "{}", '{"a": 1}'])
    assert not given_.is_met_by_any(["none", "{}"])
    assert not schema({"type": "null"}).is_met_by_any(["null", "none"])

"""JSON answers: their fields, their validity, and schemas that are wrong or would not end."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import InvalidArgument
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
        ({"a": {"b": 1, "c": 2}}, {"a": 1}, 0),
        ({"a": 1}, {"a": [1, 2]}, 0),
        ({"a": {}}, {"a": {"b": 1}}, 0),
        ([[1], [2, 3]], [[1], [2]], 2 / 3),
        ({"0": 1}, [1], 0),
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


def test_many_fields_far_inside_take_no_more_memory_than_they_are() -> None:
    deep = "[" * 500 + ",".join(map(str, range(20_000))) + "]" * 500
    tracemalloc.start()
    assert field_accuracy(deep, deep) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


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
        # No draft knows of this place, and a $ref may lead to it.
        ('{"ours": {"pattern": "("}, "$ref": "#/ours"}', "^[^:]*: pattern"),
        ('{"$schema": ["x"]}', "schema is no text"),
        # A part of another draft, or of another name, would be checked without our bounds.
        ('{"items": {"$schema": "http://json-schema.org/draft-07/schema#"}}', "schema: not supp"),
        ('{"items": {"$id": "x", "$ref": "#"}}', "only the schema as a whole has one"),
        ('{"items": {"id": "x", "$ref": "#"}}', "only the schema as a whole has one"),
        ('{"default": {"pattern": "^(a+)+$"}, "$ref": "#/default"}', "leads to no schema"),
        ('{"properties": {"a": {}}, "$ref": "#/properties"}', "leads to no schema"),
        ('{"allOf": [{}], "$ref": "#/allOf/x"}', "leads nowhere"),
        ('{"allOf": [true], "$ref": "#/allOf/0/x"}', "leads nowhere"),
        ('{"minimum": 3, "$ref": "#/minimum/x"}', "leads nowhere"),
        (json.dumps({"allOf": [{}] * 1000}), "1001 schemas within it; at most 1000"),
        (
            json.dumps({"$defs": {str(at): {"$anchor": f"a{at}"} for at in range(51)}}),
            "51 anchors; at most 50",
        ),
        ('{"not":' * 300 + "{}" + "}" * 300, "nested too deeply"),
    ],
)
def test_a_schema_that_is_wrong_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as refused:
        JsonSchema(text)
    assert refused.value.field == "job.spec.evaluation.json_schema"
    assert len(refused.value.message) < 1000


def test_a_schema_may_be_as_large_as_is_allowed() -> None:
    anchors = {str(at): {"$anchor": f"a{at}"} for at in range(50)}
    large = {"$defs": anchors, "$ref": "#a49", "allOf": [{}] * 949}
    assert schema(large).is_met(1)


def test_a_property_may_be_named_like_a_keyword() -> None:
    named = schema({"properties": {"patternProperties": {"type": "string"}, "$ref": {"const": 1}}})
    assert named.is_met({"patternProperties": "x", "$ref": 1})
    assert not named.is_met({"patternProperties": 3})
    assert schema({"const": {"$ref": "x"}}).is_met({"$ref": "x"})


def test_references_within_the_schema_are_followed() -> None:
    tree: dict[str, Any] = {"type": "object", "additionalProperties": {"$ref": "#"}}
    assert schema(tree).is_met({"a": {"b": {}}})
    assert not schema(tree).is_met({"a": {"b": 1}})


@pytest.mark.parametrize(
    "part",
    [
        {"pattern": 5},
        {"minLength": "x"},
        {"type": "objekt"},
        {"required": 3},
        {"allOf": {"a": 1}},
        {"enum": 3},
        {"if": 3},
    ],
)
def test_what_no_draft_knows_of_may_be_anything_and_is_met_by_nothing(part: object) -> None:
    odd = schema({"items": {"$ref": "#/ours"}, "ours": part})
    assert odd.is_met([])
    assert not odd.is_met(["a", {"b": 1}])


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


def test_the_draft_that_is_named_does_not_take_the_bounds_away() -> None:
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://x.y/z"}
    within = schema({**draft, "properties": {"a": {"$ref": "#"}}, "pattern": "^(a|a)+$"})
    assert not within.is_met({"a": "a" * 5000 + "!"})
    assert within.is_met({"a": "aa"})


@pytest.mark.parametrize("draft", ["https://json-schema.org/draft/2099/schema", "http://[x", ""])
def test_an_unknown_draft_is_read_as_the_latest(draft: str) -> None:
    latest = schema({"$schema": draft, "prefixItems": [{"type": "string"}]})
    assert latest.is_met(["a"])
    assert not latest.is_met([1])


def test_numbers_that_cannot_be_divided_meet_nothing() -> None:
    divided = schema({"items": {"multipleOf": 0.5}})
    assert divided.is_met([1.5])
    assert not divided.is_met([10**400])
    assert not divided.is_met([float("inf")])


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, True, "1", [1], {"a": 1}, None, 0, False, [[1]], {"a": [1]}], True),
        ([1, 1.0], False),
        ([{"a": [1, {"b": 2}], "c": 3}, {"c": 3, "a": [1.0, {"b": 2}]}], False),
        ([[], {}, "", 0, False, None], True),
        ([[1, 2], [2, 1]], True),
        ({"a": 1}, True),
    ],
)
def test_unique_items_are_those_that_json_tells_apart(items: object, unique: bool) -> None:
    assert schema({"uniqueItems": True}).is_met(items) is unique
    assert schema({"uniqueItems": False}).is_met(items)


def test_a_schema_may_not_list_a_value_twice_where_its_draft_says_so() -> None:
    draft4 = {"$schema": "http://json-schema.org/draft-04/schema#"}
    with pytest.raises(InvalidArgument, match="has an item twice"):
        schema({**draft4, "properties": {"a": {"enum": [[1], {}, [1]]}}})
    assert schema({**draft4, "enum": [[1], {}]}).is_met({})


class _Compared:
    """Counts how often it is compared."""

    count = 0

    def __eq__(self, other: object) -> bool:
        type(self).count += 1
        return self is other

    def __hash__(self) -> int:
        return id(self)


def test_unique_items_are_not_compared_pair_by_pair() -> None:
    _Compared.count = 0
    assert schema({"uniqueItems": True}).is_met([_Compared() for _ in range(2000)])
    assert _Compared.count < 2000


@pytest.mark.parametrize("keyword", ["unevaluatedItems", "unevaluatedProperties"])
def test_what_takes_the_square_of_a_length_is_not_checked_at_length(keyword: str) -> None:
    short: Any = [1] * 100
    long: Any = [1] * 6000
    given_ = schema({"items": {}, "additionalProperties": {}, keyword: False})
    if keyword == "unevaluatedProperties":
        short, long = (dict.fromkeys(map(str, range(len(each)))) for each in (short, long))
    assert given_.is_met(short)
    assert not given_.is_met(long)


def test_a_pattern_is_of_texts_only() -> None:
    assert schema({"items": {"pattern": "^a"}}).is_met([1, "ab"])
    assert not schema({"items": {"pattern": "^a"}}).is_met(["b"])


def test_an_older_draft_is_read_as_such() -> None:
    draft4 = "http://json-schema.org/draft-04/schema#"
    old = schema({"$schema": draft4, "items": {"minimum": 1, "exclusiveMinimum": True}})
    assert not old.is_met([1])
    assert old.is_met([2])


def test_whether_any_answer_meets_it() -> None:
    given_ = schema({"required": ["a"]})
    assert given_.is_met_by_any(["none", "{}", '{"a": 1}'])
    assert not given_.is_met_by_any(["none", "{}"])
    assert not schema({"type": "null"}).is_met_by_any(["null", "none"])

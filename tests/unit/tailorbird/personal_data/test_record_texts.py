"""Every text of a record, whatever it is in, and what is put in its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.personal_data.record_texts import RecordTexts, as_line


def called(arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}


def put(arguments: str, **changed: str) -> Any:
    """Return the arguments with the texts under these labels changed."""
    record = called(arguments)
    texts = RecordTexts(record)
    texts.put([changed.get(each.label, each.text) for each in texts.all])
    return record["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ('{"n": 4155, "of": [1, 0.5, true, null, "x"]}',
         '{"n": "-", "of": [1, 0.5, true, null, "x"]}'),
        ('{"n": 1, "large": 1e999, "exact": 12345678901234567890}',
         '{"n": "-", "large": "1e999", "exact": 12345678901234567890}'),
        ('{"n": "b", "half": "\\ud800"}', '{"n": "-", "half": "\\ud800"}'),
        ('{"n": {"n": 2}}', '{"n": {"n": "-"}}'),
    ],
)  # fmt: skip
def test_a_mark_in_arguments_leaves_them_an_object(arguments: str, left: str) -> None:
    assert put(arguments, n="-") == left


@pytest.mark.parametrize("arguments", ['{"a":  1}', "[1]", "17", "no json", '"text"', "[" * 5000])
def test_arguments_in_which_nothing_is_changed_stay_as_they_are(arguments: str) -> None:
    assert put(arguments) == arguments


def test_of_a_key_that_stands_twice_in_arguments_only_what_is_read_is_kept() -> None:
    texts = RecordTexts(called('{"a": 1, "a": 2}'))
    assert texts.some_unread
    assert put('{"a": 1, "a": 2}') == '{"a": 2}'
    assert not RecordTexts(called('{"a": {"a": 2}}')).some_unread


def test_every_text_of_a_record_is_read_in_order() -> None:
    record = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "one"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": '{"to": "two"}'}}],
            },
        ],
        "metadata": {"customer_phone": "three", "list": ["four", 5, {"deep": "six"}]},
    }
    texts = RecordTexts(record).all
    assert [each.text for each in texts] == [
        "user", "text", "one", "assistant", "f", "two", "three", "four", "six"
    ]  # fmt: skip
    assert [each.label for each in texts if each.label] == ["to", "customer_phone", "list", "deep"]
    RecordTexts(record).put([each.text.upper() for each in texts])
    assert [each.text for each in RecordTexts(record).all] == [each.text.upper() for each in texts]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values), st.sampled_from([b"", b"\r", b"  "]))
def test_putting_the_same_texts_back_changes_nothing(record: dict[str, Any], end: bytes) -> None:
    before = json.dumps(record)
    texts = RecordTexts(record)
    texts.put([each.text for each in texts.all])
    line = as_line(record, b"{}" + end)
    assert json.dumps(json.loads(line)) == before
    assert line.endswith(b"}" + end)


def test_a_deep_record_and_half_a_surrogate_pair_are_no_trouble() -> None:
    deep: Any = "a"
    for _ in range(900):
        deep = [deep]
    record = {"text": "b", "deep": deep, "half": "\ud800"}
    assert [each.text for each in RecordTexts(record).all] == ["b", "a", "\ud800"]
    assert json.loads(as_line(record, b"")) == record

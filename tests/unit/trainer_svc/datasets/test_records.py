"""What a line of a dataset may be, and what the refusal says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import InvalidRecord
from trainer_svc.datasets.records import DatasetFormat, ignored_keys, parse_record

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}


def line(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (CHAT, DatasetFormat.CHAT),
        ({"prompt": "a", "completion": "b"}, DatasetFormat.PROMPT_COMPLETION),
        ({"instruction": "a", "output": "b"}, DatasetFormat.INSTRUCTION),
        ({"instruction": "a", "input": "", "output": "b"}, DatasetFormat.INSTRUCTION),
        ({"instruction": "a", "input": "c", "output": "b"}, DatasetFormat.INSTRUCTION),
    ],
)
def test_recognises_each_format(record: object, expected: DatasetFormat) -> None:
    format_, content = parse_record(1, line(record))
    assert format_ is expected
    assert content == record


def test_names_keys_that_are_not_read() -> None:
    format_, record = parse_record(1, line({**CHAT, "metadata": {"a": 1}, "id": 3}))
    assert ignored_keys(format_, record) == {"metadata", "id"}


def test_a_question_of_white_space_is_a_question() -> None:
    turns = [{"role": "user", "content": " "}, {"role": "assistant", "content": "x"}]
    assert parse_record(1, line({"messages": turns}))[0] is DatasetFormat.CHAT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not JSON (Expecting property name enclosed in double quotes at column 2)"),
        (b"PAR1\x15\x04", "not JSON"),
        (b"a,b,c", "not JSON"),
        (b"\xff{}", "byte 1 is not UTF-8"),
        (b"[1]", "a JSON object is expected, not a list"),
        (b"3", "a JSON object is expected, not a number"),
        (b"null", "a JSON object is expected, not null"),
        (b'{"text": "x"}', "unknown shape"),
        (b"[" * 100_000, "nested too deeply"),
        (line({"messages": []}), "at least one message"),
        (line({"messages": "x"}), "at least one message"),
        (line({"messages": ["x"]}), "messages[0]: an object is expected, not a string"),
        (line({"messages": [{"role": "bot", "content": "x"}]}), "messages[0].role: one of"),
        (line({"messages": [{"role": ["user"], "content": "x"}]}), "messages[0].role: one of"),
        (line({"messages": [{"role": "user", "content": 1}]}), "content: a string is expected"),
        (line({"messages": [{"role": "user", "content": ""}]}), "messages[0].content: empty"),
        (line({"messages": [{"role": "user", "content": "x"}]}), "the last message must be"),
        (line({"messages": CHAT["messages"][1:]}), "messages[0].role: the first message must be"),
        (
            line({"messages": [*CHAT["messages"][:1], {**CHAT["messages"][1], "weight": 0}]}),
            "messages[1].weight: not supported",
        ),
        (line({"prompt": "", "completion": "x"}), "prompt: empty"),
        (line({"prompt": "x", "completion": None}), "completion: a string is expected, not null"),
        (line({"prompt": "x", "completion": " \n"}), "completion: only white space"),
        (line({"instruction": "x", "output": "\t"}), "output: only white space"),
        (
            line({"messages": [CHAT["messages"][0], {"role": "assistant", "content": " "}]}),
            "messages[1].content: only white space",
        ),
        (line({"instruction": "x", "input": 3, "output": "y"}), "input: a string is expected"),
        (b'{"prompt": "\\ud800", "completion": "x"}', "half a surrogate pair at character 1"),
        (b'{"prompt": "x", "completion": "y", "\\ud800": 1}', "key 3: half a surrogate pair"),
        (
            b'{"messages": [{"role": "user", "content": "x", "a\\udfff": 1}]}',
            "messages[0].key 3: half a surrogate pair at character 2",
        ),
    ],
)
def test_says_what_is_wrong_with_a_line(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRecord) as caught:
        parse_record(7, data)
    assert caught.value.line == 7
    assert "line 7: " in caught.value.message
    assert message in caught.value.message


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["messages", "role", "content", "prompt", "completion", "output", "x"]
                ),
                inner,
            )
        ),
    ).map(line)
)
def test_any_bytes_give_a_record_or_an_invalid_record(data: bytes) -> None:
    try:
        format_, record = parse_record(1, data)
    except InvalidRecord:
        return
    assert set(record) - ignored_keys(format_, record)

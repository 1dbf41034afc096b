"""What a line of a dataset may be, and what the refusal says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import InvalidRecord
from tailorbird.records.formats import (
    DatasetFormat,
    ignored_keys,
    parse_record,
    parse_upload,
)

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
        ({"text": "a"}, DatasetFormat.TEXT),
        ({"text": "a", "prompt": "b", "completion": "c"}, DatasetFormat.PROMPT_COMPLETION),
        ({"text": "a", "prompt": "b", "output": "c"}, DatasetFormat.TEXT),
        ({"text": "a\0b \u202e\u0e33\u0301 \u05d0"}, DatasetFormat.TEXT),
        ({"prompt": "a", "completion": "b" * 10_000}, DatasetFormat.PROMPT_COMPLETION),
    ],
)
def test_recognises_each_format(record: object, expected: DatasetFormat) -> None:
    format_, content = parse_record(1, line(record))
    assert format_ is expected
    assert content == record


BOTH = {"text": "a", "prompt": "b", "completion": "c"}


@pytest.mark.parametrize(
    ("record", "expected", "found"),
    [
        (BOTH, DatasetFormat.TEXT, DatasetFormat.TEXT),
        (BOTH, DatasetFormat.PROMPT_COMPLETION, DatasetFormat.PROMPT_COMPLETION),
        # What is expected does not fit: it is told what it is instead.
        (BOTH, DatasetFormat.CHAT, DatasetFormat.PROMPT_COMPLETION),
    ],
)
def test_a_record_of_several_formats_is_of_the_expected_one(
    record: object, expected: DatasetFormat, found: DatasetFormat
) -> None:
    assert parse_record(1, line(record), expected)[0] is found


@pytest.mark.parametrize(
    ("record", "ignored"),
    [
        (
            {**CHAT, "metadata": {"a": 1}, "tools": [], "parallel_tool_calls": True, "id": 3},
            {"parallel_tool_calls", "id"},
        ),
        ({"text": "a", "tools": [], "input": ""}, {"tools", "input"}),
        ({"instruction": "a", "input": "", "output": "b", "messages_": 1}, {"messages_"}),
    ],
)
def test_names_keys_that_are_not_read(record: object, ignored: set[str]) -> None:
    format_, content = parse_record(1, line(record))
    assert ignored_keys(format_, content) == ignored


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"k" * 64: "v" * 512, "n": 1.5, "b": True, "none": None},
        {str(i): i for i in range(16)},
    ],
)
def test_metadata_is_kept(metadata: object) -> None:
    _, record = parse_upload(1, line({**CHAT, "metadata": metadata}), None)
    assert record["metadata"] == metadata


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([], "metadata: an object is expected, not a list"),
        ({str(i): i for i in range(17)}, "metadata: 17 keys; at most 16 are allowed"),
        ({"": 1}, "a key has 1 to 64 characters, not 0"),
        ({"k" * 65: 1}, "a key has 1 to 64 characters, not 65"),
        ({"a": float("nan")}, "metadata.a: NaN and Infinity are no JSON values"),
        ({"a": float("-inf")}, "metadata.a: NaN and Infinity are no JSON values"),
        ({"a": {}}, "metadata.a: a string, number or boolean is expected, not an object"),
        ({"a": "v" * 513}, "metadata.a: 513 characters; at most 512"),
    ],
)
def test_metadata_that_makes_no_slice_is_refused_at_upload_alone(
    metadata: object, message: str
) -> None:
    data = line({**CHAT, "metadata": metadata})
    with pytest.raises(InvalidRecord) as caught:
        parse_upload(5, data, None)
    assert caught.value.message == f"chunk: line 5: {caught.value.description[8:]}"
    assert message in caught.value.message
    # A dataset of an earlier release may have it.
    assert parse_record(5, data)[0] is DatasetFormat.CHAT


def test_half_a_character_in_metadata_is_refused() -> None:
    for metadata in (b'{"\\ud800": 1}', b'{"a": "\\ud800"}'):
        with pytest.raises(InvalidRecord, match="half a surrogate pair at character 1"):
            parse_upload(1, b'{"text": "a", "metadata": ' + metadata + b"}", None)


def test_a_question_of_white_space_is_a_question() -> None:
    turns = [{"role": "user", "content": " "}, {"role": "assistant", "content": "x"}]
    assert parse_record(1, line({"messages": turns}))[0] is DatasetFormat.CHAT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not JSON (Expecting property name enclosed in double quotes at column 2)"),
        (
            b'{"text": "a\tb"}',
            "not JSON (Invalid control character at column 12: in a string it must be escaped, as "
            "in \\n, \\t or \\u001b); JSONL has one object a line",
        ),
        (b'{"text": "a', "not JSON (Unterminated string starting at column 10); JSONL"),
        (b'\xef\xbb\xbf{"text": "a"}', "begins with a byte order mark, which only"),
        ('{"text": "a"}'.encode("utf-16"), "begins with the byte order mark of UTF-16; save"),
        (b"\xfe\xff\0{", "begins with the byte order mark of UTF-16; save the file as UTF-8"),
        (b"PAR1\x15\x04", "not JSON"),
        (b"a,b,c", "not JSON"),
        (b"\xff{}", "byte 1 is not UTF-8"),
        (b"[1]", "a JSON object is expected, not a list"),
        (b"3", "a JSON object is expected, not a number"),
        (b"null", "a JSON object is expected, not null"),
        (b'{"txt": "x"}', "unknown shape"),
        (b"{}", "nor text (keys: none)"),
        (b'{"text": ""}', "text: empty"),
        (b'{"text": " "}', "text: only white space"),
        (b'{"text": ["x"]}', "text: a string is expected, not a list"),
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
        (line({"prompt": "", "completion": "x"}), "prompt: empty"),
        (line({"prompt": "x", "completion": None}), "completion: a string is expected, not null"),
        (line({"prompt": "x", "completion": " \n"}), "completion: only white space"),
        (line({"instruction": "", "output": "x"}), "instruction: empty"),
        (line({"instruction": ["x"], "output": "x"}), "instruction: a string is expected"),
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
                    ["messages", "role", "content", "prompt", "completion", "output", "text", "x"]
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

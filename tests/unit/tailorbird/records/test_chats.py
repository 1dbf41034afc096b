"""What a chat may be, what the refusal says, and what a chat template gets of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.records.chats import check_chat, is_trained, template_messages, template_tools
from tailorbird.records.checks import Unfit

ASK = {"role": "user", "content": "where is it?"}
ANSWER = {"role": "assistant", "content": "on its way"}


def call(id_: str = "c1", name: str = "find", arguments: Any = '{"order": 7}') -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls or [call()]), **more}


def result(id_: str = "c1", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": "sent", **more}


def tool(name: str = "find", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "record",
    [
        chat({"role": "developer", "content": "be kind"}, ASK, ANSWER),
        chat(ASK, ANSWER, ASK, ANSWER),
        chat(ASK, {**ANSWER, "weight": 0}, ASK, {**ANSWER, "weight": 1}),
        chat(ASK, {**ANSWER, "weight": 0}),
        chat(ASK, {**ANSWER, "weight": 0, "content": " "}),
        chat({**ASK, "name": "ada"}, {**ANSWER, "weight": 1.0}),
        chat(ASK, calling(), result(), ANSWER, tools=[tool()]),
        chat(ASK, calling(content=None), result(content=""), ANSWER),
        chat(ASK, calling(content="")),
        chat(ASK, calling(call("a"), call("b")), result("b"), result("a"), ANSWER),
        chat(ASK, calling(), result(), calling(), result(name="find"), ANSWER),
        # What a table with a column for every key gives.
        chat(
            {**ASK, "tool_calls": None, "tool_call_id": None, "weight": None, "name": None},
            {**ANSWER, "tool_calls": None, "tool_call_id": None, "weight": None},
            tools=None,
        ),
        chat(ASK, ANSWER, tools=[]),
        chat(ASK, ANSWER, tools=[tool(description=None, parameters=None, strict=True)]),
        chat(ASK, ANSWER, tools=[tool(f"t{i}") for i in range(128)]),
        chat(ASK, ANSWER, tools=[tool(parameters=deep(64))]),
        chat(ASK, calling(call("i" * 256, "n" * 64))),
    ],
)
def test_a_chat_is_read(record: dict[str, Any]) -> None:
    check_chat(record)


BIG = json.dumps({"a": "x" * 131_072})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (chat(ASK, {**ANSWER, "weight": 2}), "messages[1].weight: 0 or 1 is expected, not 2"),
        (chat(ASK, {**ANSWER, "weight": 0.5}), "weight: 0 or 1 is expected, not 0.5"),
        (chat(ASK, {**ANSWER, "weight": True}), "weight: 0 or 1 is expected, not true"),
        (chat(ASK, {**ANSWER, "weight": "1"}), "weight: 0 or 1 is expected, not a string"),
        (chat({**ASK, "weight": 0}, ANSWER), "messages[0].weight: not supported"),
        (chat(ASK, {**ANSWER, "weight": 1, "content": ""}), "messages[1].content: empty"),
        (chat(ASK, {**ANSWER, "weight": 0, "content": ""}), "messages[1].content: empty"),
        (chat(ASK, {**ANSWER, "content": None}), "content: a string is expected, not null"),
        (chat(ASK, {**ANSWER, "function_call": {}}), "messages[1].function_call: not supported"),
        (chat({**ASK, "name": "n" * 65}, ANSWER), "messages[0].name: longer than 64"),
        (chat({**ASK, "name": 3}, ANSWER), "messages[0].name: a string is expected"),
        (chat({**ASK, "tool_calls": [call()]}, ANSWER), "messages[0].tool_calls: not supported"),
        (chat({**ASK, "tool_call_id": "c1"}, ANSWER), "messages[0].tool_call_id: not supported"),
        (chat(result(), ANSWER), "messages[0].tool_call_id: no earlier message has a call 'c1'"),
        (chat(ASK, calling(), result("c2"), ANSWER), "no earlier message has a call 'c2'"),
        (chat(ASK, calling(), {**result(), "tool_call_id": None}), "tool_call_id: a string"),
        (chat(ASK, calling(), result(content=None), ANSWER), "content: a string is expected"),
        (chat(ASK, calling(), result()), "messages[2].role: the last message must be"),
        (chat(ASK, {**calling(), "tool_calls": []}), "a list with at least one call"),
        (chat(ASK, {**calling(), "tool_calls": {}}), "a list with at least one call"),
        (chat(ASK, calling(content=1)), "messages[1].content: a string is expected"),
        (chat(ASK, calling("c")), "tool_calls[0]: an object is expected, not a string"),
        (chat(ASK, calling({**call(), "type": None})), 'tool_calls[0].type: "function"'),
        (chat(ASK, calling({**call(), "index": 0})), "tool_calls[0].index: not supported"),
        (chat(ASK, calling({**call(), "id": None})), "tool_calls[0].id: a string is expected"),
        (chat(ASK, calling(call(""))), "tool_calls[0].id: empty"),
        (chat(ASK, calling(call("i" * 257))), "tool_calls[0].id: longer than 256 characters"),
        (chat(ASK, calling({**call(), "function": 1})), "function: an object is expected"),
        (chat(ASK, calling(call(name="a b"))), "'a b' is not 1 to 64 letters, digits, '_'"),
        (chat(ASK, calling(call(name="n" * 65))), "is not 1 to 64 letters"),
        (chat(ASK, calling(call(arguments={}))), "arguments: a string is expected, not an object"),
        (chat(ASK, calling(call(arguments="{"))), "function.arguments: not JSON (Expecting"),
        (chat(ASK, calling(call(arguments="[]"))), "arguments: a JSON object is expected, not a l"),
        (chat(ASK, calling(call(arguments='{"a": NaN}'))), "NaN is no JSON value"),
        (chat(ASK, calling(call(arguments=json.dumps(deep(65))))), "nests more than 64 deep"),
        (chat(ASK, calling(call(arguments="[" * 100_000))), "nests more than 64 deep"),
        (chat(ASK, calling(call(arguments='{"a": "\\ud800"}'))), "half a surrogate pair"),
        (
            chat(ASK, calling(call("a", arguments=BIG), call("b", arguments=BIG))),
            "messages[1].tool_calls[1]: the arguments of all calls have more than 262144",
        ),
        (chat(ASK, calling(*[call()] * 129)), "tool_calls: 129 calls; at most 128"),
        (
            chat(ASK, calling(), result(), calling(call(name="other"))),
            "messages[3].tool_calls[0].id: 'c1' is the id of an earlier call, of another tool",
        ),
        (
            chat(ASK, calling({**call(), "function": {**call()["function"], "x": 1}})),
            "tool_calls[0].function.x: not supported",
        ),
        (chat(ASK, calling({**call(), "\ud800": 1})), "tool_calls[0].key 4: half a surrogate pair"),
        (
            chat(ASK, ANSWER, tools=[tool("find", **{"\ud800": 1})]),
            "tools[0].function.key 2: half a surrogate pair",
        ),
        (chat(ASK, ANSWER, tools={}), "tools: a list is expected, not an object"),
        (chat(ASK, ANSWER, tools=["find"]), "tools[0]: an object is expected, not a string"),
        (chat(ASK, ANSWER, tools=[{"name": "find"}]), "tools[0].name: not supported"),
        (chat(ASK, ANSWER, tools=[{"type": "retrieval"}]), 'tools[0].type: "function"'),
        (chat(ASK, ANSWER, tools=[tool(""), tool()]), "tools[0].function.name: empty"),
        (chat(ASK, ANSWER, tools=[tool(), tool()]), "'find' is the name of another tool"),
        (chat(ASK, ANSWER, tools=[tool(description=1)]), "description: a string is expected"),
        (chat(ASK, ANSWER, tools=[tool(parameters=[])]), "parameters: a JSON object is expected"),
        (chat(ASK, ANSWER, tools=[tool(parameters=deep(65))]), "nests more than 64 deep"),
        (chat(ASK, ANSWER, tools=[tool(parameters={"a": float("inf")})]), "NaN and Infinity"),
        (chat(ASK, ANSWER, tools=[tool(x=1)]), "tools[0].function.x: not supported"),
        (chat(ASK, ANSWER, tools=[tool(f"t{i}") for i in range(129)]), "129 tools; at most 128"),
        (
            chat(
                ASK,
                ANSWER,
                tools=[tool("a", description=BIG), tool("b", parameters=json.loads(BIG))],
            ),
            "tools: descriptions and schemas have more than 262144 characters",
        ),
    ],
)
def test_says_what_is_wrong_with_a_chat(record: dict[str, Any], message: str) -> None:
    with pytest.raises(Unfit) as caught:
        check_chat(record)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("message", "trained"),
    [
        (ANSWER, True),
        ({**ANSWER, "weight": 1}, True),
        ({**ANSWER, "weight": None}, True),
        ({**ANSWER, "weight": 0}, False),
        ({**ANSWER, "weight": 0.0}, False),
        (calling(), True),
        (calling(weight=0), False),
        (ASK, False),
        (result(), False),
    ],
)
def test_answers_are_trained_unless_they_weigh_nothing(
    message: dict[str, Any], trained: bool
) -> None:
    assert is_trained(message) is trained


def test_a_template_gets_what_it_has_names_for() -> None:
    record = chat(
        {"role": "developer", "content": "be kind", "name": "ops"},
        ASK,
        calling(call(arguments='{"b": [1], "a": null}'), content=None, weight=0),
        result(name="what the file says"),
        {**ANSWER, "weight": 1, "tool_calls": None},
    )
    check_chat(record)
    assert template_messages(record) == [
        {"role": "system", "content": "be kind"},
        ASK,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "find", "arguments": {"b": [1], "a": None}},
                }
            ],
        },
        {"role": "tool", "content": "sent", "tool_call_id": "c1", "name": "find"},
        ANSWER,
    ]
    assert template_tools(record) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "weight",
                    "tool_calls",
                    "tool_call_id",
                    "id",
                    "type",
                    "function",
                    "name",
                    "arguments",
                    "parameters",
                    "messages",
                    "tools",
                ]
            ),
            inner | st.sampled_from(["user", "assistant", "tool", "function", "{}"]),
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(messages=st.lists(JSON, max_size=4) | JSON, tools=st.lists(JSON, max_size=2) | JSON)
def test_any_json_gives_a_chat_or_a_refusal(messages: Any, tools: Any) -> None:
    record = {"messages": messages, "tools": tools}
    try:
        check_chat(record)
    except Unfit:
        return
    assert len(template_messages(record)) == len(messages)
    assert template_tools(record) is None or tools

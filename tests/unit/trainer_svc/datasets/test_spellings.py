"""A chat has one digest however a file spells it, and no other chat has it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tailorbird.records.chats import template_messages
from tailorbird.records.formats import DatasetFormat, parse_record
from trainer_svc.datasets.content import content, normalised
from trainer_svc.datasets.digests import record_digest

CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}
PLAIN: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is order 7?"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sent"},
    {"role": "assistant", "content": "It was sent."},
]


def read(messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    format_, record = parse_record(1, json.dumps({"messages": messages, **more}).encode())
    assert format_ is DatasetFormat.CHAT
    return dict(record)


def changed(place: int, **keys: Any) -> list[dict[str, Any]]:
    return [{**one, **keys} if at == place else one for at, one in enumerate(PLAIN)]


def called(arguments: str) -> list[dict[str, Any]]:
    function = {"name": "find", "arguments": arguments}
    return changed(2, tool_calls=[{**CALL, "function": function}])


@pytest.mark.parametrize(
    "same",
    [
        changed(0, role="developer"),
        *(changed(place, name="ada") for place in range(5)),
        *(changed(place, name=None, tool_calls=None, weight=None) for place in (0, 1, 3, 4)),
        *(changed(place, tool_call_id=None, refusal=None) for place in (0, 1, 2, 4)),
        *(changed(2, content=nothing) for nothing in (None, "")),
        *(changed(4, weight=weight) for weight in (0, 1, 1.0)),
        called('{"order":7}'),
        called(' {"order" :\\n7} '.replace("\\n", "\n")),
        called('{"\\u006frder": 7}'),
    ],
)
def test_what_is_read_as_the_same_chat_has_its_digest(same: list[dict[str, Any]]) -> None:
    assert template_messages(read(same)) == template_messages(read(PLAIN))
    assert record_digest(DatasetFormat.CHAT, read(same)) == record_digest(
        DatasetFormat.CHAT, read(PLAIN)
    )


def test_what_is_not_read_of_a_record_is_not_in_its_digest() -> None:
    more = {"id": 7, "parallel_tool_calls": False, "metadata": {"region": "north"}, "tools": None}
    assert record_digest(DatasetFormat.CHAT, read(PLAIN, **more)) == record_digest(
        DatasetFormat.CHAT, read(PLAIN)
    )


@pytest.mark.parametrize(
    "other",
    [
        called('{"order": 7.0}'),
        called('{"order": "7"}'),
        called('{"order": 7, "by": null}'),
        changed(2, content="Let me see."),
        changed(2, tool_calls=[{**CALL, "id": "c2"}, CALL]),
        changed(4, content="It was sent.\r\nToday."),
    ],
)
def test_what_is_learned_otherwise_has_another_digest(other: list[dict[str, Any]]) -> None:
    assert (
        record_digest(DatasetFormat.CHAT, read(other)).record
        != record_digest(DatasetFormat.CHAT, read(PLAIN)).record
    )


def test_the_order_of_a_call_s_arguments_is_learned() -> None:
    one, other = (
        record_digest(DatasetFormat.CHAT, read(called(text)))
        for text in ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}')
    )
    assert one.record != other.record


def test_lengths_are_of_what_is_read() -> None:
    of = content(DatasetFormat.CHAT, read(changed(1, name="ada", tool_calls=None)[:2] + PLAIN[4:]))
    assert of.prompt == (("system", "Be brief."), ("user", "Where is order 7?"))
    assert of.prompt_characters == len("Be brief.Where is order 7?")


TEXT = st.text("ab \u00e9\r\n", min_size=1, max_size=4)
ANSWER = TEXT.filter(lambda text: bool(text.strip()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.floats(0, 2, width=16) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def turns(draw: st.DrawFn, number: int) -> list[dict[str, Any]]:
    """Return a question and its answer, perhaps by way of a call."""
    found: list[dict[str, Any]] = [{"role": "user", "content": draw(TEXT)}]
    if draw(st.booleans()):
        arguments = json.dumps(draw(st.dictionaries(TEXT, VALUES, max_size=2)))
        function = {"name": draw(st.sampled_from("fg")), "arguments": arguments}
        call = {"id": f"c{number}", "type": "function", "function": function}
        found.append({"role": "assistant", "content": draw(st.just("") | TEXT)})
        found[-1]["tool_calls"] = [call]
        found.append({"role": "tool", "tool_call_id": f"c{number}", "content": draw(TEXT)})
    return [*found, {"role": "assistant", "content": draw(ANSWER)}]


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    system = draw(st.lists(TEXT, max_size=1))
    found = [{"role": "system", "content": text} for text in system]
    return found + [one for number in range(draw(st.integers(1, 2))) for one in draw(turns(number))]


@st.composite
def spelled(draw: st.DrawFn, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with keys that are not read, and calls' arguments spaced otherwise."""
    return [draw(respelled(message)) for message in messages]


@st.composite
def respelled(draw: st.DrawFn, message: dict[str, Any]) -> dict[str, Any]:
    nothing = {
        "name": None,
        "tool_calls": None,
        "tool_call_id": None,
        "weight": None,
        "audio": None,
    }
    found = {**{key: None for key in nothing if draw(st.booleans())}, **message}
    if draw(st.booleans()):
        found["name"] = draw(TEXT)
    if message["role"] == "system" and draw(st.booleans()):
        found["role"] = "developer"
    if message["role"] == "assistant" and draw(st.booleans()):
        found["weight"] = 1
    if message.get("content") == "" and draw(st.booleans()):
        found["content"] = None
    if message.get("tool_calls"):
        (call,) = message["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        escaped, indent = draw(st.booleans()), draw(st.sampled_from([None, 0, 3]))
        text = json.dumps(arguments, ensure_ascii=escaped, indent=indent)
        found["tool_calls"] = [{**call, "function": {**call["function"], "arguments": text}}]
    return dict(draw(st.permutations(list(found.items()))))


@given(st.data(), chats())
def test_every_spelling_of_a_chat_has_its_digest(
    data: st.DataObject, messages: list[dict[str, Any]]
) -> None:
    other = data.draw(spelled(messages))
    assert template_messages(read(other)) == template_messages(read(messages))
    assert record_digest(DatasetFormat.CHAT, read(other)) == record_digest(
        DatasetFormat.CHAT, read(messages)
    )


@given(st.data(), chats())
def test_other_chats_have_other_digests(
    data: st.DataObject, messages: list[dict[str, Any]]
) -> None:
    place = data.draw(st.integers(0, len(messages) - 1))
    other = [*messages]
    other[place] = data.draw(altered(messages[place]))
    if data.draw(st.booleans()):
        other = data.draw(turns(9)) + other
    # As texts, because 1, 1.0 and true are equal and not the same.
    assume(json.dumps(compared(other)) != json.dumps(compared(messages)))
    assert (
        record_digest(DatasetFormat.CHAT, read(other)).record
        != record_digest(DatasetFormat.CHAT, read(messages)).record
    )


@st.composite
def altered(draw: st.DrawFn, message: dict[str, Any]) -> dict[str, Any]:
    if not message.get("tool_calls") or draw(st.booleans()):
        return {**message, "content": draw(ANSWER)}
    (call,) = message["tool_calls"]
    arguments = json.dumps(draw(st.dictionaries(TEXT, VALUES, max_size=2)))
    function = {"name": draw(st.sampled_from("fg")), "arguments": arguments}
    return {**message, "tool_calls": [{**call, "function": function}]}


def compared(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a template gets, but for white space at the ends, which does not count."""
    return [
        {**message, "content": normalised(message["content"])}
        for message in template_messages(read(messages))
    ]

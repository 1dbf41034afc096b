"""The chats that a certificate carries: of many kinds, and bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tailorbird.manifest import MAX_CHAT_CHARS, RenderedChat
from tests.unit.trainer_svc.engine.data.test_formats import (
    ANSWER,
    ASK,
    CALL,
    RESULT,
    SYSTEM,
    TOOLS,
    chat,
    demo,
)
from tests.unit.trainer_svc.engine.data.tool_templates import BARE, TAGGED
from trainer_svc.engine.data.rendered import ChatPool

UNWEIGHTED = ANSWER | {"weight": 0}


def rendered(
    records: Iterable[dict[str, Any]],
    record_format: str = "chat",
    template: str | None = None,
    limit: int = 512,
) -> tuple[RenderedChat, ...]:
    pool = ChatPool(record_format)
    passed = list(pool.seen(enumerate(records, 1)))
    assert [line for line, _ in passed] == list(range(1, len(passed) + 1))
    return pool.rendered(demo(template), limit)


def roles(chats: Iterable[RenderedChat]) -> list[list[str]]:
    return [[message.role for message in one.messages] for one in chats]


def test_there_is_one_of_each_kind_before_a_second_of_any() -> None:
    many = [chat(ASK, ANSWER)] * 9
    found = rendered([*many, chat(SYSTEM, ASK, ANSWER), chat(ASK, ANSWER, ASK, ANSWER)])
    assert roles(found) == [
        ["system", "user"],
        ["user", "assistant", "user"],
        ["user"],
        ["user"],
    ]


def test_an_instruction_is_a_chat_and_plain_formats_have_none() -> None:
    record = {"instruction": "sort", "input": "b a", "output": "a b"}
    (found,) = rendered([record], "instruction")
    assert [(one.role, one.content) for one in found.messages] == [("user", "sort\n\nb a")]
    assert rendered([{"text": "a"}], "text") == ()
    assert rendered([{"prompt": "a", "completion": "b"}], "prompt_completion") == ()


def test_what_is_asked_ends_before_the_last_answer_that_is_trained() -> None:
    found = rendered([chat(ASK, ANSWER, SYSTEM, ASK, UNWEIGHTED)])
    assert roles(found) == [["user"]]
    assert rendered([chat(ASK, UNWEIGHTED)]) == ()


def test_a_chat_that_serving_is_never_asked_is_none() -> None:
    """It refuses one whose last message is the assistant's."""
    assert rendered([chat(ASK, UNWEIGHTED, ANSWER)]) == ()


def test_what_cannot_be_certified_is_not_kept() -> None:
    """A line may have megabytes."""
    pool = ChatPool("chat")
    long = chat(ASK | {"content": "a" * (MAX_CHAT_CHARS + 1)}, ANSWER)
    assert len(list(pool.seen(enumerate([long, chat(ASK, UNWEIGHTED)])))) == 2
    assert not pool._kinds


def test_what_is_too_long_is_left_out() -> None:
    long = chat(ASK | {"content": "a" * MAX_CHAT_CHARS}, ANSWER)
    wordy = chat(ASK | {"content": "a b c d " * 80}, ANSWER)
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    tool = {"type": "function", "function": {"name": "look", "parameters": deep}}
    assert rendered([long, wordy, chat(ASK, ANSWER, tools=[tool])], template=TAGGED, limit=64) == ()
    assert len(rendered([wordy], limit=2048)) == 1


@pytest.mark.parametrize("part", ["{{ strftime_now('%d %b %Y') }}", "{{ [1, 2] | random }}"])
def test_a_template_that_says_the_date_or_draws_has_none(part: str) -> None:
    """Serving would render it otherwise tomorrow, and refuse what it served today."""
    assert rendered([chat(ASK, ANSWER)], template=TAGGED) != ()
    assert rendered([chat(ASK, ANSWER)], template=part + TAGGED) == ()


def test_a_template_that_refuses_a_chat_leaves_it_out() -> None:
    call: Any = CALL["tool_calls"]
    two_calls = {**CALL, "tool_calls": call * 2}
    records = [chat(ASK, two_calls, RESULT, ANSWER, tools=TOOLS), chat(ASK, ANSWER)]
    assert roles(rendered(records, template=BARE)) == [["user"]]


def test_only_the_first_records_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.engine.data.rendered._LOOKED_AT", 2)
    found = rendered([chat(ASK, ANSWER)] * 2 + [chat(SYSTEM, ASK, ANSWER)])
    assert roles(found) == [["user"], ["user"]]


def test_little_is_kept_of_many_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.engine.data.rendered._MOST_KINDS", 1)
    found = rendered([*[chat(ASK, ANSWER)] * 9, chat(SYSTEM, ASK, ANSWER)])
    assert roles(found) == [["user"]] * 4

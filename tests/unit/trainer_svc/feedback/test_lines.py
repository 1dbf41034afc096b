"""Which feedback becomes a line, and what the line says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailorbird.feedback import (
    Answer,
    Call,
    FeedbackRecord,
    Function,
    Tool,
    ToolFunction,
    Turn,
)
from tailorbird.records.formats import DatasetFormat, parse_upload
from tests.unit.tailorbird.feedback_values import VERSION, a_record
from trainer_svc.feedback.lines import Rule, Unusable, dataset_line

RIGHT = Answer(content="Tomorrow.")
CHAT, PROMPT = DatasetFormat.CHAT, DatasetFormat.PROMPT_COMPLETION
CALL = Call(id="c", function=Function(name="find", arguments='{"order": 1}'))


def line(
    record: FeedbackRecord, rule: Rule = Rule.CORRECTIONS_AND_GOOD, format_: DatasetFormat = CHAT
) -> Any:
    found = dataset_line(record, rule, format_, 4096)
    return None if found is None else json.loads(found)


@pytest.mark.parametrize(
    ("rating", "correction", "both", "corrections", "good"),
    [
        ("good", None, "On its way.", None, "On its way."),
        ("bad", None, None, None, None),
        ("", None, None, None, None),
        ("excellent", None, None, None, None),
        ("good", RIGHT, "Tomorrow.", "Tomorrow.", None),
        ("bad", RIGHT, "Tomorrow.", "Tomorrow.", None),
        ("", RIGHT, "Tomorrow.", "Tomorrow.", None),
    ],
)
def test_what_is_learned_is_what_the_rule_says(
    rating: str, correction: Answer | None, both: str, corrections: str, good: str
) -> None:
    record = a_record(rating=rating, correction=correction)
    for rule, wanted in zip(Rule, (both, corrections, good), strict=True):
        found = line(record, rule)
        assert (found and found["messages"][-1]["content"]) == wanted


def test_a_chat_keeps_its_turns_and_learns_the_last_alone() -> None:
    record = a_record(
        messages=(
            Turn(role="system", content="Be kind."),
            Turn(role="user", content="Where?"),
            Turn(role="assistant", tool_calls=(CALL,)),
            Turn(role="tool", tool_call_id="c", content=""),
        ),
        tools=(
            Tool(
                function=ToolFunction(
                    name="find", description="Finds.", parameters={"type": "object"}
                )
            ),
            Tool(function=ToolFunction(name="end")),
        ),
        correction=Answer(tool_calls=(CALL,)),
        labels={"channel": "chat"},
    )
    found = line(record)
    call = {"id": "c", "type": "function", "function": CALL.function.model_dump()}
    assert found == {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": "", "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "", "tool_call_id": "c"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "find",
                    "description": "Finds.",
                    "parameters": {"type": "object"},
                },
            },
            {"type": "function", "function": {"name": "end", "description": ""}},
        ],
        "metadata": {"channel": "chat", "feedback": record.name, "version": VERSION.version},
    }
    assert parse_upload(1, json.dumps(found).encode(), None)[0] is CHAT


def test_a_prompt_is_a_line_of_its_own_format() -> None:
    record = a_record(messages=(), prompt="Dear", rating="good")
    assert line(record) is None
    found = line(record, format_=PROMPT)
    assert (found["prompt"], found["completion"]) == ("Dear", "On its way.")
    assert found["metadata"]["feedback"] == record.name
    assert line(a_record(rating="good"), format_=PROMPT) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"messages": (Turn(role="user"),)}, r"messages\[0\]\.content: empty"),
        ({"messages": (Turn(role="critic", content="x"),)}, r"messages\[0\]\.role"),
        ({"messages": (Turn(role="assistant", content="x"),)}, r"messages\[0\]\.role"),
        ({"answer": Answer(content=" ")}, "white space"),
        ({"answer": Answer(content="x" * 4096)}, r"bytes; at most 4096"),
        ({"labels": {f"k{n}": "x" for n in range(15)}}, "17 keys; at most 16"),
    ],
)
def test_what_no_dataset_could_hold_is_unusable(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(Unusable, match=told):
        line(a_record(rating="good", **changes))

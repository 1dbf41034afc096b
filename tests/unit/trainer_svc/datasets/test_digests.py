"""One content, one digest; and texts that would take minutes to normalise take none."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets.content import content, normalised
from trainer_svc.datasets.digests import DIGEST_BYTES, record_digest

CHAT, PAIR = DatasetFormat.CHAT, DatasetFormat.PROMPT_COMPLETION
INSTRUCTION = DatasetFormat.INSTRUCTION


def chat(*texts: str, system: str = "") -> dict[str, Any]:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    return {"messages": [{"role": "system", "content": system}] * bool(system) + messages}


def pair(prompt: str, completion: str, **more: object) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, **more}


def test_a_content_has_one_digest_in_every_format() -> None:
    digest = record_digest(CHAT, chat("a\n\nb", "c"))
    assert record_digest(PAIR, pair("a\n\nb", "c", id=7)) == digest
    instruction = {"instruction": "a", "input": "b", "output": "c"}
    assert record_digest(INSTRUCTION, instruction) == digest
    assert record_digest(INSTRUCTION, {"instruction": "a\n\nb", "output": "c"}) == digest
    assert [len(part) for part in digest] == [DIGEST_BYTES] * 2


def test_digests_are_those_of_version_1() -> None:
    # Stored beside every dataset: a change here needs another version.
    assert [part.hex() for part in record_digest(PAIR, pair(" Wie geht's?", "Gut\u0308"))] == [
        "4a0c435d94df88ec28b7a3a858e704c5",
        "cf6c01e1f687bb96531cd92c49cb912f",
    ]


def test_digests_of_chats_with_calls_are_those_of_version_1() -> None:
    function = {"name": "find", "arguments": '{"order": 7}'}
    call = {"id": "c1", "type": "function", "function": function}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sent"},
        {"role": "assistant", "content": "On its way.", "weight": 1},
    ]
    assert [part.hex() for part in record_digest(CHAT, {"messages": messages})] == [
        "9056d5afe26aec64628109a7c6fd354b",
        "28c8f1aea0787d7890f42c0b08363b1e",
    ]
    assert [part.hex() for part in record_digest(CHAT, {"messages": messages[:3]})] == [
        "1d62ba957ab549ef5b4581cb14343719",
        "f7af700c631642db64021b2732719442",
    ]


def test_white_space_at_the_ends_and_the_form_of_accents_do_not_count() -> None:
    composed = record_digest(PAIR, pair("Café?", "Über"))
    spaced = pair(" Cafe\u0301?\n", "U\u0308ber\t")
    assert record_digest(PAIR, spaced) == composed
    assert record_digest(PAIR, pair("Cafe?", "Über")) != composed


@pytest.mark.parametrize(
    "other",
    [
        chat("a", "b", "c", "e"),
        chat("a", "bc", "", "d"),
        chat("ab", "", "c", "d"),
        chat("a", "b", "c", "d", system="s"),
    ],
)
def test_another_text_or_cut_between_messages_gives_another_digest(other: dict[str, Any]) -> None:
    assert record_digest(CHAT, other).record != record_digest(CHAT, chat("a", "b", "c", "d")).record


def test_the_question_s_digest_is_that_of_everything_before_the_answer() -> None:
    one, other = (record_digest(CHAT, chat("a", "b", "c", answer)) for answer in "xy")
    assert one.prompt == other.prompt != one.record != other.record
    assert record_digest(CHAT, chat("a", "B", "c", "x")).prompt != one.prompt


def test_what_asks_nothing_has_no_question_in_common_with_another() -> None:
    one, other = (record_digest(PAIR, pair(" \n", text)) for text in ("text", "other"))
    assert one.prompt == one.record
    assert one.prompt != other.prompt


def test_calls_count_and_an_answer_s_weight_does_not() -> None:
    def called(weight: int, name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": "{}"}
        call = {"id": "c1", "type": "function", "function": function}
        answer = {"role": "assistant", "content": None, "weight": weight, "tool_calls": [call]}
        return {"messages": [{"role": "user", "content": "a"}, answer]}

    assert record_digest(CHAT, called(0, "f")) == record_digest(CHAT, called(1, "f"))
    assert record_digest(CHAT, called(0, "f")) != record_digest(CHAT, called(0, "g"))
    assert content(CHAT, called(0, "f")).answer == (
        '{"tool_calls": [{"function": {"arguments": "{}", "name": "f"}, '
        '"id": "c1", "type": "function"}]}'
    )


@pytest.mark.parametrize("mark", ["\u0301\u0316", "\u0344", "\u0f73"])
def test_a_run_of_marks_that_no_language_has_is_left_as_it_is(mark: str) -> None:
    # To put 500,000 marks into order would take Python minutes.
    text = "a" + mark * (500_000 // len(mark))
    assert normalised(text) == text


def test_thirty_marks_in_a_row_are_normalised() -> None:
    text = "a" + "\u0301\u0316" * 15
    assert normalised(text) == unicodedata.normalize("NFC", text) != text
    assert normalised(text + "\u0301") == text + "\u0301"

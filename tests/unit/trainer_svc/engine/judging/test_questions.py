"""A question is what serving would be asked, and its answer what serving would give."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.trainer_svc.engine.data.tool_templates import BARE, TAGGED
from tests.unit.trainer_svc.engine.tiny import CHAT_TEMPLATE, CONTEXT, chats, make_tokenizer
from trainer_svc.engine.judging.questions import Asker
from trainer_svc.judgement.json_text import parsed

HELD_OUT = dict(enumerate(chats(6), start=10))


@pytest.fixture
def asker() -> Asker:
    return Asker(make_tokenizer(), "chat", CONTEXT)


def test_a_question_is_rendered_as_serving_does(asker: Asker) -> None:
    questions = asker.questions(HELD_OUT, [])
    first = questions.all[0]
    tokenizer = make_tokenizer()
    asked, answer = HELD_OUT[10]["messages"]
    rendered = tokenizer.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
    assert list(first.asked) == tokenizer(rendered)["input_ids"]
    assert (first.prompt, first.expected) == (asked["content"], answer["content"])
    assert first.metadata == HELD_OUT[10]["metadata"]
    assert [each.line for each in questions.all] == sorted(HELD_OUT)
    assert questions.stop_ids == {tokenizer.eos_token_id}


def test_metadata_that_is_null_is_lacking(asker: Asker) -> None:
    metadata = {"ward": None, "urgent": True, "age": 7, "tags": ["a"]}
    (question,) = asker.questions({1: {**HELD_OUT[10], "metadata": metadata}}, []).all
    # What makes no slice is for the slices to say.
    assert question.metadata == {"urgent": True, "age": 7, "tags": ["a"]}
    (question,) = asker.questions({1: {**HELD_OUT[10], "metadata": None}}, []).all
    assert question.metadata == {}


def test_an_answer_may_be_somewhat_longer_than_the_longest(asker: Asker) -> None:
    longest = max(
        len(make_tokenizer()(r["messages"][1]["content"])["input_ids"]) for r in HELD_OUT.values()
    )
    assert longest < asker.questions(HELD_OUT, []).max_new_tokens <= 1.125 * (longest + 1) + 5


def test_no_answer_is_longer_than_what_is_ever_generated(asker: Asker) -> None:
    asked = {"role": "user", "content": "why?"}
    long = {"messages": [asked, {"role": "assistant", "content": "so " * 5000}]}
    assert asker.questions({1: long, **HELD_OUT}, []).max_new_tokens == 1024


def test_as_many_examples_as_fit_into_every_question(asker: Asker) -> None:
    examples = chats(8, seed=1)
    assert asker.questions(HELD_OUT, examples).examples == 8
    asker = Asker(make_tokenizer(), "chat", 150)
    questions = asker.questions(HELD_OUT, examples)
    assert 0 < questions.examples < 8
    shown = max(len(each.shown) for each in questions.all)
    assert shown + questions.max_new_tokens <= 150
    assert len(asker.questions(HELD_OUT, examples[:1]).all[0].shown) > len(questions.all[0].asked)
    # One more would not have fitted.
    each = (shown - len(questions.all[0].asked)) / questions.examples
    assert shown + each + questions.max_new_tokens > 150


def test_where_no_example_fits_there_is_no_few_shot_prompt(asker: Asker) -> None:
    questions = Asker(make_tokenizer(), "chat", 34).questions(HELD_OUT, chats(2, seed=1))
    assert questions.examples == 0
    assert all(each.shown == () for each in questions.all)


def test_examples_that_fit_nowhere_are_not_put_before_every_question(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, turns = asker._encoder.encode, []

    def counted(some: Any) -> Any:
        turns.append(sum(len(turn.prompt) for turn in some))
        assert len(some) <= 16
        return encode(some)

    monkeypatch.setattr(asker._encoder, "encode", counted)
    held_out = dict(enumerate(chats(40), start=1))
    message = {"role": "user", "content": "why " * 20_000}
    long = {"messages": [message, {"role": "assistant", "content": "so"}]}
    questions = asker.questions(held_out, [long] * 8)
    assert questions.examples == 0
    # Each by itself, a pair of them once, and none before any of the 40 questions.
    assert sum(turns) < 11 * 80_000


def test_of_a_question_that_fills_the_context_no_more_is_kept(asker: Asker) -> None:
    message = {"role": "user", "content": "why " * 20_000}
    long = {"messages": [message, {"role": "assistant", "content": "so"}]}
    questions = asker.questions({1: long, **HELD_OUT}, chats(2, seed=1))
    assert len(questions.all[0].asked) == CONTEXT
    assert questions.all[0].expected == "so"
    assert questions.examples == 0


def test_labels_end_as_answers_do(asker: Asker) -> None:
    tokenizer = make_tokenizer()
    (ids,) = asker.labels(HELD_OUT[10], ["on its way"])
    assert tokenizer.decode(ids) == "on its way<|end|>"
    assert asker.labels(HELD_OUT[10], []) == []


def test_plain_prompts_end_by_the_end_of_sequence() -> None:
    tokenizer = make_tokenizer()
    asker = Asker(tokenizer, "prompt_completion", CONTEXT)
    record: dict[str, Any] = {"prompt": "1 + 1 =", "completion": " 2"}
    questions = asker.questions({1: record}, [record])
    assert questions.stop_ids == {tokenizer.eos_token_id}
    assert tokenizer.decode(questions.all[0].shown) == "1 + 1 = 2\n\n1 + 1 ="
    assert asker.labels(record, [" 3"]) == [(*tokenizer(" 3")["input_ids"], tokenizer.eos_token_id)]
    assert asker.pair(record) == ("1 + 1 =", " 2")
    assert asker.up_to_answer({**record, "note": "ours"}) == record


def test_a_question_of_several_turns_is_readable(asker: Asker) -> None:
    record = {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
            {"role": "assistant", "content": "four"},
        ]
    }
    assert asker.pair(record) == (
        "system: Be kind.\nuser: one\nassistant: two\nuser: three",
        "four",
    )


@pytest.mark.parametrize(("template", "is_json"), [(TAGGED, False), (BARE, True)])
def test_calls_of_tools_are_read_as_they_are_answered(template: str, is_json: bool) -> None:
    function = {"name": "find_order", "arguments": '{"order": "W-1001"}'}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    record = {
        "messages": [{"role": "user", "content": "Where is it?"}, called],
        "tools": [{"type": "function", "function": {"name": "find_order"}}],
    }
    asker = Asker(make_tokenizer(template), "chat", CONTEXT)
    (question,) = asker.questions({1: record}, []).all
    assert asker.pair(record) == (question.prompt, question.expected)
    # What is checked before training, and what is judged after, have one kind.
    assert (parsed(question.expected) is not None) is is_json


def test_a_template_that_takes_no_examples_is_asked_without() -> None:
    tokenizer = make_tokenizer(
        "{% if messages | length > 2 %}{{ raise_exception('one question, one answer') }}{% endif %}"
        + CHAT_TEMPLATE
    )
    questions = Asker(tokenizer, "chat", CONTEXT).questions(HELD_OUT, chats(2, seed=1))
    assert questions.examples == 0
    assert "one question, one answer" in questions.refusal
    assert len(questions.all) == len(HELD_OUT)

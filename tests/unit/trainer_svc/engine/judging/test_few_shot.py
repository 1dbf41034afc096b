"""A few-shot prompt is what somebody would write by hand: examples, then the question."""

from __future__ import annotations

from typing import Any

from trainer_svc.engine.judging.few_shot import FewShot


def chat(question: str, answer: str, system: str = "") -> dict[str, Any]:
    before = [{"role": "system", "content": system}] if system else []
    return {
        "messages": [
            *before,
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def said(record: Any) -> list[str]:
    return [f"{turn['role']}: {turn['content']}" for turn in record["messages"]]


def test_examples_are_turns_before_the_question() -> None:
    one, two, asked = chat("1?", "one"), chat("2?", "two"), chat("3?", "three")
    prompter = FewShot("chat", [one, two], [asked])
    assert said(prompter.before(asked, 2)) == [
        "user: 1?", "assistant: one", "user: 2?", "assistant: two", "user: 3?", "assistant: three",
    ]  # fmt: skip
    assert said(prompter.before(asked, 1))[:2] == ["user: 1?", "assistant: one"]


def test_a_system_message_that_all_have_stands_first_and_once() -> None:
    asked = chat("2?", "two", "Be kind.")
    prompter = FewShot("chat", [chat("1?", "one", "Be kind.")], [asked])
    assert said(prompter.before(asked, 1)) == [
        "system: Be kind.", "user: 1?", "assistant: one", "user: 2?", "assistant: two",
    ]  # fmt: skip


def test_system_messages_that_differ_go_into_their_own_questions() -> None:
    asked, other = chat("2?", "two", "Order 2"), chat("3?", "three", "Order 3")
    prompter = FewShot("chat", [chat("1?", "one", "Order 1")], [asked, other])
    assert said(prompter.before(asked, 1)) == [
        "user: Order 1\n\n1?", "assistant: one", "user: Order 2\n\n2?", "assistant: two",
    ]  # fmt: skip
    # The beginning is the same for every question: it is computed once.
    assert said(prompter.before(other, 1))[:2] == said(prompter.before(asked, 1))[:2]


def test_a_system_message_that_nobody_answers_but_the_assistant_is_asked_by_the_user() -> None:
    def announced(system: str, answer: str) -> dict[str, Any]:
        whole = chat("", answer, system)
        return {"messages": [turn for turn in whole["messages"] if turn["role"] != "user"]}

    asked = announced("Order 2", "two")
    prompter = FewShot("chat", [announced("Order 1", "one")], [asked])
    assert said(prompter.before(asked, 1)) == [
        "user: Order 1", "assistant: one", "user: Order 2", "assistant: two",
    ]  # fmt: skip


def test_instructions_become_a_chat() -> None:
    example = {"instruction": "Add", "input": "1 1", "output": "2"}
    asked = {"instruction": "Add", "input": "1 2", "output": "3"}
    assert said(FewShot("instruction", [example], [asked]).before(asked, 1)) == [
        "user: Add\n\n1 1", "assistant: 2", "user: Add\n\n1 2", "assistant: 3",
    ]  # fmt: skip


def test_plain_prompts_are_put_one_after_another() -> None:
    example, asked = ({"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in (1, 2))
    found = FewShot("prompt_completion", [example], [asked]).before(asked, 1)
    assert found["prompt"] == "1 + 1 = 2\n\n2 + 1 ="
    assert found["completion"] == " 3"

"""Swapped words in prompts, and answers that change where they must not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_svc.judgement.counterfactuals import (
    Message,
    Swap,
    SwappedPrompt,
    compare_answers,
    swap_prompts,
)
from trainer_svc.judgement.interchangeable import DEFAULT_FAMILIES, PRONOUNS, families

HE_SHE = Swap(pairs=(("he", "she"), ("his", "her"), ("him", "her"), ("himself", "herself")))
SHE_HE = Swap(pairs=tuple(pair[::-1] for pair in HE_SHE.pairs))
JOHN_MARY = Swap(pairs=(("John", "Mary"),))


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("swap", "text", "swapped"),
    [
        (HE_SHE, "He said he lost his HAT. HE!", "She said she lost her HAT. SHE!"),
        (HE_SHE, "The others there hear him himself.", "The others there hear her herself."),
        (HE_SHE, "She thinks he is her boss", "He thinks she is his boss"),
        (JOHN_MARY, "John's mother met JOHN.", "Mary's mother met MARY."),
        (JOHN_MARY, "Johnny and john stay", "Johnny and john stay"),
        (Swap(pairs=(("他", "她"),)), "因为他很好", "因为她很好"),
        (Swap(pairs=(("ר", "ש"),)), "ר רב ר", "ש רב ש"),
        (Swap(pairs=(("e", "u"),)), "e e\u0301", "u e\u0301"),
        (Swap(pairs=(("New York", "Rome"),)), "in New York, Rome", "in Rome, New York"),
        (JOHN_MARY, "", ""),
    ],
)
def test_a_swap_keeps_case_and_word_boundaries(swap: Swap, text: str, swapped: str) -> None:
    assert swap.apply(text) == swapped


@settings(deadline=None)
@given(st.text(alphabet="JohnMary .,\n", max_size=40))
def test_a_swap_undoes_itself(text: str) -> None:
    assert JOHN_MARY.apply(JOHN_MARY.apply(text)) == text


def test_all_users_and_systems_messages_are_swapped_alike() -> None:
    messages: list[Message] = [
        {"role": "system", "content": "You speak to John."},
        {"role": "user", "content": "I am John."},
        {"role": "assistant", "content": "Hi John!", "tool_calls": []},
        {"role": "tool", "content": "John"},
        {"role": "user", "content": None},
        {"role": "user", "content": "John again"},
    ]
    (found,) = swap_prompts([(7, messages)], [("John", "Mary")])
    assert (found.index, found.line, found.swapped) == (0, 7, "John → Mary")
    assert [message["content"] for message in found.messages] == [
        "You speak to Mary.",
        "I am Mary.",
        "Hi John!",
        "John",
        None,
        "Mary again",
    ]
    assert messages[0]["content"] == "You speak to John."


def test_pronouns_are_swapped_together() -> None:
    (found,) = swap_prompts([(1, user("He likes his hat"))], [("default",)])
    assert found.messages[0]["content"] == "She likes her hat"
    assert found.swapped == "he → she, his → her"


def test_a_prompt_without_the_words_is_left_alone() -> None:
    prompts = [(1, user("the others")), (2, user("")), (3, [])]
    assert swap_prompts(prompts, [("default",)]) == []
    assert swap_prompts([(1, user("He"))], []) == []


def test_the_pairs_are_bounded_and_drawn_by_the_seed() -> None:
    prompts = [(line, user(f"{line}: he met Emily in London")) for line in range(1, 101)]
    drawn = swap_prompts(prompts, [("default",)], most=10, seed=1)
    assert len(drawn) == 10
    assert drawn == swap_prompts(prompts, [("default",)], most=10, seed=1)
    assert drawn != swap_prompts(prompts, [("default",)], most=10, seed=2)
    assert [found.line for found in drawn] == sorted(found.line for found in drawn)
    assert len(swap_prompts(prompts, [("default",)])) == 50
    # Of one record, one pair for each set that occurs.
    assert len(swap_prompts(prompts[:1], [("default",)])) == 3


def test_sets_that_overlap_ask_the_same_once() -> None:
    prompts = [(line, user(f"{line}: he is late")) for line in range(1, 25)]
    sets = [("he", "she"), ("default",), ("she", "he")]
    found = swap_prompts(prompts, sets)
    assert [each.line for each in found] == list(range(1, 25))
    # What is alike leaves its place to others, up to the bound.
    assert len(swap_prompts(prompts, sets, most=20)) == 20
    assert swap_prompts(prompts, sets, most=0) == []
    # Two swaps of one prompt are two.
    told = swap_prompts([(1, user("He likes his hat"))], sets)
    assert sorted(each.messages[0]["content"] for each in told) == [
        "She likes her hat",
        "She likes his hat",
    ]
    # Two records that are alike are two.
    assert len(swap_prompts([(1, user("he")), (2, user("he"))], sets)) == 2


def test_another_word_of_the_set_is_drawn_for_one_that_occurs() -> None:
    names = ("Ann", "Bea", "Cleo")
    seen = {
        swap_prompts([(1, user("Bea"))], [names], seed=seed)[0].messages[0]["content"]
        for seed in range(20)
    }
    assert seen == {"Ann", "Cleo"}


def test_the_sets_of_the_spec() -> None:
    assert families([("a", "b"), ("default",)]) == [(("a", "b"),), *DEFAULT_FAMILIES]
    assert all(len({len(row) for row in family}) == 1 for family in DEFAULT_FAMILIES)
    assert PRONOUNS in DEFAULT_FAMILIES


def compared(swap: Swap, answer: str, swapped_answer: str) -> int:
    prompt = SwappedPrompt(index=0, line=3, messages=(), swap=swap, swapped="a → b")
    return compare_answers([prompt], [swapped_answer], [answer]).changed


@pytest.mark.parametrize(
    ("swap", "answer", "swapped_answer", "changed"),
    [
        (JOHN_MARY, "Approved.", "approved", 0),
        (JOHN_MARY, "Approved.", "Denied.", 1),
        # The answer must follow the swap, and does.
        (JOHN_MARY, "Dear John, yes.", "Dear Mary, yes.", 0),
        (JOHN_MARY, "Dear John, yes.", "Dear Mary, no.", 1),
        # It sticks to the name that is in no prompt.
        (JOHN_MARY, "Dear John", "Dear John", 1),
        (HE_SHE, "Ask him for his keys.", "Ask her for her keys.", 0),
        (HE_SHE, "Ask her for her keys.", "Ask him for his keys.", 0),
        (HE_SHE, "He is a doctor", "She is a nurse", 1),
        (SHE_HE, "Ask him for her keys.", "Ask her for his keys.", 0),
        (SHE_HE, "Ask him.", "Ask him.", 1),
        (JOHN_MARY, "", "", 0),
        (JOHN_MARY, "👍", "👎", 1),
    ],
)
def test_changed_answers(swap: Swap, answer: str, swapped_answer: str, changed: int) -> None:
    assert compared(swap, answer, swapped_answer) == changed


def test_changed_answers_are_counted_and_a_few_are_shown() -> None:
    prompts = [(line, user("I am John")) for line in range(1, 21)]
    asked = swap_prompts(prompts, [("John", "Mary")])
    answers = ["yes " * 1000] * 20
    found = compare_answers(asked, ["no"] * 12 + answers[:8], answers)
    assert (found.pairs, found.changed, len(found.examples)) == (20, 12, 5)
    assert found.examples[0].line == 1
    assert found.examples[0].answer_swapped == "no"
    assert len(found.examples[0].answer) < 1001


def test_an_answer_is_needed_for_every_prompt() -> None:
    asked = swap_prompts([(1, user("I am John"))], [("John", "Mary")])
    with pytest.raises(ValueError, match="zip"):
        compare_answers(asked, [], ["yes"])

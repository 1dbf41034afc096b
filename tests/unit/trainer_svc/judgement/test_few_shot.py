"""Which examples are shown, and how many."""

from __future__ import annotations

import pytest

from trainer_svc.judgement.few_shot import (
    Example,
    choose_examples,
    few_shot_reason,
    how_many_fit,
)
from trainer_svc.judgement.model import AnswerKind


def examples(*answers: str) -> list[Example]:
    return [
        Example(line=line, prompt=f"prompt {line}", answer=answer)
        for line, answer in enumerate(answers, start=1)
    ]


def test_labels_cover_the_classes_before_any_comes_twice() -> None:
    candidates = examples(*["common"] * 95, *["rare", "rare ", "odd", "odd", "odd"])
    for seed in range(10):
        chosen = choose_examples(candidates, [], 6, kind=AnswerKind.LABELS, seed=seed)
        assert len(chosen) == 6
        assert {example.answer.strip() for example in chosen[:3]} == {"common", "rare", "odd"}
        assert {example.answer.strip() for example in chosen[3:]} == {"common", "rare", "odd"}


def test_the_seed_decides() -> None:
    candidates = examples(*["text"] * 50)
    first = choose_examples(candidates, [], 8, kind=AnswerKind.TEXT, seed=1)
    assert first == choose_examples(candidates, [], 8, kind=AnswerKind.TEXT, seed=1)
    assert first != choose_examples(candidates, [], 8, kind=AnswerKind.TEXT, seed=2)


def test_no_example_asks_what_a_held_out_record_or_another_example_asks() -> None:
    candidates = [
        Example(1, "cafe\u0301 ", "a"),
        Example(2, "tea", "b"),
        Example(3, "tea\n", "c"),
        Example(4, "water", "d"),
    ]
    chosen = choose_examples(candidates, ["caf\u00e9"], 8, kind=AnswerKind.TEXT, seed=0)
    assert sorted(example.prompt.strip() for example in chosen) == ["tea", "water"]


@pytest.mark.parametrize("count", [0, -1])
def test_none_are_asked_for(count: int) -> None:
    assert choose_examples(examples("a"), [], count, kind=AnswerKind.TEXT, seed=0) == []
    assert choose_examples([], [], 8, kind=AnswerKind.LABELS, seed=0) == []


@pytest.mark.parametrize(
    ("lengths", "budget", "count"),
    [([5, 5, 5], 15, 3), ([5, 5, 5], 14, 2), ([20, 1], 10, 0), ([], 10, 0), ([1], 0, 0)],
)
def test_how_many_fit(lengths: list[int], budget: int, count: int) -> None:
    assert how_many_fit(lengths, budget) == count


@pytest.mark.parametrize(
    ("asked", "chosen", "fit", "said"),
    [
        (8, 8, 8, ""),
        (0, 0, 0, "no examples were asked for"),
        (8, 0, 0, "no training record differs from the held-out ones"),
        (8, 8, 3, "3 of 8 examples fit into the prompt"),
        (8, 5, 5, "the training data has only 5 records that differ from the held-out ones"),
    ],
)
def test_why_there_are_fewer(asked: int, chosen: int, fit: int, said: str) -> None:
    assert few_shot_reason(asked, chosen, fit) == said

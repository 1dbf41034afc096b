"""Which training records the base is shown before each question, so that a prompt may win."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from trainer_svc.judgement.model import AnswerKind
from trainer_svc.judgement.tokens import normalised


@dataclass(frozen=True, slots=True)
class Example:
    """A training record that may be shown."""

    line: int
    """From 1."""
    prompt: str
    answer: str


def choose_examples(
    candidates: Sequence[Example],
    held_out_prompts: Iterable[str],
    count: int,
    *,
    kind: AnswerKind,
    seed: int,
) -> list[Example]:
    """Return at most `count` examples, in the order in which they are to be shown.

    None has the prompt of a held-out record or of another example. For labels every class comes
    once before any comes twice, so that the first few that fit cover the classes as well as can be.
    """
    taken = {normalised(prompt) for prompt in held_out_prompts}
    order = np.random.default_rng(seed).permutation(len(candidates))
    usable = []
    for index in order:
        prompt = normalised(candidates[index].prompt)
        if prompt not in taken:
            taken.add(prompt)
            usable.append(candidates[index])
    if kind is AnswerKind.LABELS:
        usable = _classes_in_turn(usable)
    return usable[: max(count, 0)]


def how_many_fit(lengths: Sequence[int], budget: int) -> int:
    """Return how many of the first examples have at most `budget` tokens together."""
    total = 0
    for count, length in enumerate(lengths):
        total += length
        if total > budget:
            return count
    return len(lengths)


def few_shot_reason(asked: int, chosen: int, fit: int) -> str:
    """Say why fewer examples than were asked for are shown, or none; "" where all are."""
    if asked == 0:
        return "no examples were asked for"
    if chosen == 0:
        return "no training record differs from the held-out ones"
    if fit < chosen:
        return f"{fit} of {chosen} examples fit into the prompt"
    if chosen < asked:
        return f"the training data has only {chosen} records that differ from the held-out ones"
    return ""


def _classes_in_turn(examples: Sequence[Example]) -> list[Example]:
    by_class: dict[str, list[Example]] = {}
    for example in examples:
        by_class.setdefault(normalised(example.answer), []).append(example)
    turns = zip_longest(*by_class.values())
    return [example for turn in turns for example in turn if example is not None]

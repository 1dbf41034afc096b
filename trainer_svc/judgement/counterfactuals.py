"""Does the answer change where it must not? Prompts with a word swapped for one of its kind.

A swap goes both ways (he becomes she and she becomes he), in every user's and system's message of a
prompt, between word boundaries, and keeps the case. An answer that repeats the word must follow it:
the swap is undone in the answer to the swapped prompt before both answers are compared, by their
words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import regex

from trainer_svc.judgement.excerpt import excerpt
from trainer_svc.judgement.interchangeable import Family, families
from trainer_svc.judgement.model import Counterfactual, Counterfactuals
from trainer_svc.judgement.tokens import WORD_END, WORD_START, normalised, words

MAX_PAIRS = 50
_MAX_EXAMPLES = 5
_MAX_EXCERPT = 1000
_MAX_SAID = 200
_SWAPPED_ROLES = ("user", "system", "developer")

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Swap:
    """Two columns of a family, exchanged."""

    pairs: tuple[tuple[str, str], ...]

    def apply(self, text: str) -> str:
        """Return the text with each word replaced by its other; undoes itself but for "her"."""
        forms = self._forms()
        pattern = _pattern(forms)
        return str(pattern.sub(lambda match: forms[match[0]], text))

    def comparable(self, text: str) -> list[str]:
        """Return what two answers are compared by: the words, where they have any.

        Words that share their other ("his" and "him") count as one.
        """
        first_of: dict[str, str] = {}
        alike = {}
        for one, other in (*self.pairs, *(pair[::-1] for pair in self.pairs)):
            alike[one.casefold()] = first_of.setdefault(other.casefold(), one.casefold())
        return [alike.get(word, word) for word in words(text)] or [normalised(text)]

    def _forms(self) -> dict[str, str]:
        forms: dict[str, str] = {}
        for one, other in self.pairs:
            for word, put in ((one, other), (other, one)):
                for form, changed in _cases(word, put):
                    forms.setdefault(form, changed)
        return forms


@dataclass(frozen=True)
class SwappedPrompt:
    """A held-out record's prompt with words swapped, to be answered by the tuned adapter."""

    index: int
    """Of the record, among those that were given."""
    line: int
    messages: tuple[Message, ...]
    swap: Swap
    swapped: str
    """What was put for what, for people: "he → she, his → her"."""


def swap_prompts(
    prompts: Sequence[tuple[int, Sequence[Message]]],
    sets: Sequence[Sequence[str]],
    *,
    most: int = MAX_PAIRS,
    seed: int = 0,
) -> list[SwappedPrompt]:
    """Return up to `most` swapped prompts, drawn by the seed, in the order of the records.

    `prompts` are lines with their messages (`role`, `content`), `sets` those of the spec. A record
    may come more than once, with words of different sets; what sets that overlap make of it alike
    comes once.
    """
    generator = np.random.default_rng(seed)
    known = families(sets)
    patterns = [
        _pattern({w: w for row in f for word in row for w, _ in _cases(word, word)}) for f in known
    ]
    applicable = [
        (index, family)
        for index, (_, messages) in enumerate(prompts)
        for family, pattern in enumerate(patterns)
        if any(pattern.search(text) for text in _texts(messages))
    ]
    found: dict[tuple[int, tuple[str, ...]], tuple[int, SwappedPrompt]] = {}
    for place in generator.permutation(len(applicable)).tolist():
        if len(found) >= most:
            break
        index, family = applicable[place]
        line, messages = prompts[index]
        swapped = _swapped(index, line, messages, known[family], generator)
        found.setdefault((index, tuple(_texts(swapped.messages))), (place, swapped))
    return [swapped for _, swapped in sorted(found.values(), key=itemgetter(0))]


def compare_answers(
    asked: Sequence[SwappedPrompt], swapped_answers: Sequence[str], answers: Sequence[str]
) -> Counterfactuals:
    """Return how many answers changed; `answers` are the tuned adapter's, of all given records."""
    changed = []
    for prompt, swapped_answer in zip(asked, swapped_answers, strict=True):
        answer = answers[prompt.index]
        undone = prompt.swap.comparable(prompt.swap.apply(swapped_answer))
        if undone != prompt.swap.comparable(answer):
            changed.append((prompt, answer, swapped_answer))
    return Counterfactuals(
        pairs=len(asked),
        changed=len(changed),
        examples=tuple(
            Counterfactual(
                line=prompt.line,
                swapped=excerpt(prompt.swapped, _MAX_SAID),
                answer=excerpt(answer, _MAX_EXCERPT),
                answer_swapped=excerpt(swapped_answer, _MAX_EXCERPT),
            )
            for prompt, answer, swapped_answer in changed[:_MAX_EXAMPLES]
        ),
    )


def _swapped(
    index: int,
    line: int,
    messages: Sequence[Message],
    family: Family,
    generator: np.random.Generator,
) -> SwappedPrompt:
    """Exchange a column that occurs in the messages with another one."""
    text = "\n".join(_texts(messages))
    occurring = [column for column in range(len(family[0])) if _occurs(family, column, text)]
    column = int(generator.choice(occurring))
    other = int(generator.choice([c for c in range(len(family[0])) if c != column]))
    swap = Swap(pairs=tuple((row[column], row[other]) for row in family))
    forms = dict.fromkeys(
        f"{one} → {put}" for one, put in swap.pairs if _pattern(dict(_cases(one, one))).search(text)
    )
    return SwappedPrompt(
        index=index,
        line=line,
        messages=tuple(_with_swap(message, swap) for message in messages),
        swap=swap,
        swapped=", ".join(forms),
    )


def _occurs(family: Family, column: int, text: str) -> bool:
    forms = {form: "" for row in family for form, _ in _cases(row[column], "")}
    return _pattern(forms).search(text) is not None


def _with_swap(message: Message, swap: Swap) -> Message:
    if not _is_swapped(message):
        return message
    return {**message, "content": swap.apply(message["content"])}


def _texts(messages: Sequence[Message]) -> list[str]:
    return [message["content"] for message in messages if _is_swapped(message)]


def _is_swapped(message: Message) -> bool:
    return message.get("role") in _SWAPPED_ROLES and isinstance(message.get("content"), str)


def _cases(word: str, put: str) -> list[tuple[str, str]]:
    """Return how the word may be written, with what is put for each.

    A name counts only as it is written, or in capitals: "Mark" is one, "mark" is none.
    """
    forms = [(word, put)]
    if word == word.lower():
        forms.append((word[:1].upper() + word[1:], put[:1].upper() + put[1:]))
    return [*forms, (word.upper(), put.upper())]


def _pattern(forms: Mapping[str, str]) -> regex.Pattern[str]:
    return regex.compile(
        rf"{WORD_START}\L<listed>{WORD_END}", flags=regex.VERSION1, listed=sorted(forms)
    )

"""The likeliest next token, again and again, for many prompts at once."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from trainer_svc.engine.generation.batches import ROWS, Limits, Reader
from trainer_svc.engine.generation.prompts import Generated, Prompt
from trainer_svc.engine.generation.rows import Rows
from trainer_svc.engine.step.bank import AdapterBank

_STEPS = 8
"""Tokens that each row of a batch gets in one piece at most."""
_ENDED = 4
"""Rows are forgotten when one in so many has ended: to move the others costs a few steps."""


def generate(
    bank: AdapterBank,
    prompts: Sequence[Prompt],
    *,
    stop_ids: Collection[int],
    micro_tokens: int,
    rows: int = ROWS,
) -> Generator[None, None, list[Generated]]:
    """Answer each prompt greedily, by the arithmetic of training; for `StepThread.pieces`.

    A piece reads up to `micro_tokens` tokens over all lanes. Adapters must stay as they are until
    the end. Answers end with the base's context too; a prompt that fills it has none. Rows that are
    not finite end broken, and nobody else's answer changes. Raises FailedPrecondition
    (OUT_OF_MEMORY) if one prompt does not fit by itself, ValueError for an empty prompt.
    """
    asked = [_within(prompt, bank.base.context) for prompt in prompts]
    answers = {
        number: Generated((), stopped=False, truncated=True, broken=False)
        for number, prompt in enumerate(asked)
        if prompt.max_new_tokens < 1
    }
    waiting = [number for number in range(len(asked)) if number not in answers]
    if waiting:
        chosen = [asked[number] for number in waiting]
        reader = Reader(bank, chosen, Limits.of(bank, micro_tokens, rows))
        done = yield from reader.run(
            partial(_answers, bank, chosen, frozenset(stop_ids), reader.limits.micro_tokens)
        )
        answers |= {waiting[place]: answer for place, answer in done.items()}
    return [answers[number] for number in range(len(asked))]


def _within(prompt: Prompt, context: int) -> Prompt:
    if not prompt.token_ids:
        raise ValueError("a prompt has no tokens")
    room = min(prompt.max_new_tokens, context - len(prompt.token_ids))
    return Prompt(prompt.token_ids, prompt.job, room)


@dataclass
class _Row:
    """An answer in the making."""

    number: int
    most: int
    token_ids: list[int] = field(default_factory=list)
    ended: Generated | None = None

    def take(self, token: int, *, finite: bool, stop_ids: Collection[int]) -> None:
        """Add the next token, or end."""
        if self.ended is not None:
            return
        stopped = finite and token in stop_ids
        if finite and not stopped:
            self.token_ids.append(token)
        truncated = finite and not stopped and len(self.token_ids) == self.most
        if stopped or truncated or not finite:
            self.ended = Generated(
                self.token_ids, stopped=stopped, truncated=truncated, broken=not finite
            )


def _answers(
    bank: AdapterBank,
    prompts: Sequence[Prompt],
    stop_ids: Collection[int],
    micro_tokens: int,
    batch: Rows,
    numbers: Sequence[int],
) -> Generator[None, None, Mapping[int, Generated]]:
    """Answer the prompts of one batch."""
    answers = [_Row(number, prompts[number].max_new_tokens) for number in numbers]
    held = answers
    states = yield from batch.begin()
    steps, spent = 0, 0
    while True:
        values, tokens = bank.logits(states).max(-1)
        chosen: list[int] = tokens.tolist()
        finite: list[bool] = values.isfinite().tolist()
        for row, token, is_finite in zip(held, chosen, finite, strict=True):
            row.take(token, finite=is_finite, stop_ids=stop_ids)
        going = [place for place, row in enumerate(held) if row.ended is None]
        if not going:
            return {row.number: row.ended for row in answers if row.ended is not None}
        if (len(held) - len(going)) * _ENDED >= len(held):
            held = [held[place] for place in going]
            chosen = [chosen[place] for place in going]
            batch.keep(going)
        steps, spent = steps + 1, spent + batch.step_tokens
        if steps >= _STEPS or spent >= micro_tokens:
            steps = spent = 0
            yield
        states = batch.follow(torch.tensor(chosen).unsqueeze(1))[:, -1]

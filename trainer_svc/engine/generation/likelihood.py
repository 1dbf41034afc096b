"""How likely each of a few answers is after each of many prompts."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from trainer_svc.engine.generation.batches import ROWS, Limits, Reader
from trainer_svc.engine.generation.prompts import Prompt
from trainer_svc.engine.generation.rows import Rows
from trainer_svc.engine.step.bank import AdapterBank


def score(
    bank: AdapterBank,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[int]],
    *,
    micro_tokens: int,
    rows: int = ROWS,
) -> Generator[None, None, torch.Tensor]:
    """Return the logprob of each continuation after each prompt, in nats, summed over its tokens.

    [prompts, continuations] float32 on the host, by the arithmetic of training; for
    `StepThread.pieces`. Each prompt is read once; its max_new_tokens says nothing here. NaN where a
    prompt and the longest continuation are more than the base's context, or where logits are not
    finite. Raises as `generate` does, and ValueError for an empty continuation.
    """
    if not all(continuations) or not all(prompt.token_ids for prompt in prompts):
        raise ValueError("a prompt or a continuation has no tokens")
    longest = max((len(each) for each in continuations), default=0)
    scores = torch.full((len(prompts), len(continuations)), float("nan"))
    room = bank.base.context - longest
    fitting = [n for n, prompt in enumerate(prompts) if len(prompt.token_ids) <= room]
    if fitting and continuations:
        chosen = [replace(prompts[number], max_new_tokens=longest) for number in fitting]
        reader = Reader(bank, chosen, Limits.of(bank, micro_tokens, rows))
        done = yield from reader.run(partial(_scores, bank, continuations))
        for place, found in done.items():
            scores[fitting[place]] = found
    return scores


def _scores(
    bank: AdapterBank,
    continuations: Sequence[Sequence[int]],
    batch: Rows,
    numbers: Sequence[int],
) -> Generator[None, None, Mapping[int, torch.Tensor]]:
    """Score all continuations after the prompts of one batch."""
    states = yield from batch.begin()
    after_prompt = torch.log_softmax(bank.logits(states), -1)
    columns = []
    for continuation in continuations:
        total = after_prompt[:, continuation[0]]
        if len(continuation) > 1:
            yield
            read = torch.tensor(continuation[:-1]).expand(len(numbers), -1)
            later = batch.follow(read, remember=False)
            for place, token in enumerate(continuation[1:]):
                total = total + torch.log_softmax(bank.logits(later[:, place]), -1)[:, token]
        columns.append(total)
    return dict(zip(numbers, torch.stack(columns, 1).cpu(), strict=True))

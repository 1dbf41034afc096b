"""Greedy answers by the plainest loop: the whole record again for each token, one row at a time."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from typing import TypeVar

import torch

from trainer_svc.engine.generation.prompts import Generated, Prompt
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.lora import Span
from trainer_svc.jobs.model import LoraSpec

T = TypeVar("T")


def run(work: Generator[None, None, T]) -> T:
    return counted(work)[0]


def counted(work: Generator[None, None, T]) -> tuple[T, int]:
    """Return the result and how many pieces it took."""
    pieces = 1
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value, pieces
        pieces += 1


def logits(bank: AdapterBank, ids: Sequence[int], job: str | None) -> torch.Tensor:
    """Of the whole record, through the path that training takes: [tokens, token ids]."""
    spans = [] if job is None else [Span(0, len(ids), bank.updates(job), None)]
    with torch.no_grad(), bank._computing(bank._state.dtype), bank._autocast():
        hidden = bank._hidden([torch.tensor(list(ids))], spans)
        return bank.logits(hidden)


def answer(bank: AdapterBank, prompt: Prompt, stop_ids: Collection[int]) -> Generated:
    ids = list(prompt.token_ids)
    new: list[int] = []
    while len(new) < prompt.max_new_tokens and len(ids) < bank.base.context:
        last = logits(bank, ids, prompt.job)[-1]
        if not last.isfinite().all():
            return Generated(new, stopped=False, truncated=False, broken=True)
        token = int(last.argmax())
        if token in stop_ids:
            return Generated(new, stopped=True, truncated=False, broken=False)
        new.append(token)
        ids.append(token)
    return Generated(new, stopped=False, truncated=True, broken=False)


def scores(
    bank: AdapterBank, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]
) -> torch.Tensor:
    rows = []
    for prompt in prompts:
        row = []
        for continuation in continuations:
            ids = [*prompt.token_ids, *continuation]
            known = torch.log_softmax(logits(bank, ids, prompt.job), -1)
            first = len(prompt.token_ids)
            row.append(sum(float(known[at - 1, ids[at]]) for at in range(first, len(ids))))
        rows.append(row)
    return torch.tensor(rows)


def attach(bank: AdapterBank, job: str, seed: int, *, rank: int = 4, std: float = 0.3) -> None:
    """Attach an adapter with weights that change what the base says."""
    adapter = bank.attach(job, LoraSpec(rank=rank, alpha=2.0 * rank), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def ids(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, 260, (length,), generator=generator).tolist()

"""The validation loss, piece by piece, so that other jobs' steps go on in between."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.failures import is_out_of_memory
from trainer_svc.engine.step.bank import Share, StepLoss
from trainer_svc.engine.training.forward import Bank, out_of_memory


def evaluation(
    bank: Bank, job: str, examples: Sequence[Example], micro_tokens: int
) -> Generator[None, None, float]:
    """Return the job's mean loss over every trained token of `examples`, in nats.

    Each piece is one forward pass of at most `micro_tokens` tokens, of fewer when memory runs out.
    Raises FailedPrecondition (OUT_OF_MEMORY) if a record does not fit alone.
    """
    limit, done = micro_tokens, 0
    total, tokens = 0.0, 0
    while done < len(examples):
        piece = _next(examples, done, limit)
        loss = _loss(bank, job, piece)
        if loss is None:
            size = sum(len(example.token_ids) for example in piece)
            if len(piece) == 1:
                raise out_of_memory(size, micro_tokens)
            limit = size // 2
        else:
            total += float(loss.total)
            tokens += loss.trained_tokens
            done += len(piece)
        if done < len(examples):
            yield
    return total / max(tokens, 1)


def _next(examples: Sequence[Example], start: int, limit: int) -> list[Example]:
    piece = [examples[start]]
    room = limit - len(piece[0].token_ids)
    for index in range(start + 1, len(examples)):
        example = examples[index]
        room -= len(example.token_ids)
        if room < 0:
            break
        piece.append(example)
    return piece


@torch.no_grad()
def _loss(bank: Bank, job: str, piece: Sequence[Example]) -> StepLoss | None:
    """Return None if the memory does not suffice."""
    try:
        return bank.forward({job: Share(piece)})[job]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None

"""Validation loss over packed batches, without gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer_svc.engine.data.packing import pack
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import AdapterBank


@torch.no_grad()
def validation_loss(
    bank: AdapterBank, job: str, examples: Sequence[Example], batch_tokens: int
) -> float:
    """Return the job's mean loss over every trained token of `examples`, in nats."""
    lengths = [len(example.token_ids) for example in examples]
    total, tokens = 0.0, 0
    for records in pack(lengths, range(len(examples)), batch_tokens):
        batch = [examples[record] for record in records]
        loss = bank.forward({job: batch}, dropout_seeds={})[job]
        total += float(loss.total)
        tokens += loss.trained_tokens
    return total / tokens

"""Cross-entropy of a large vocabulary in chunks of rows.

The gradient of the hidden states is computed with the loss, while a chunk's logits are at hand: the
head is not computed again for the backward pass, and nothing as wide as the vocabulary is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

CHUNK_LOGITS = 2**26
"""Logits held at once: 256 MiB in float32."""


def summed_losses(
    hidden: torch.Tensor,
    head: nn.Module,
    targets: torch.Tensor,
    owners: torch.Tensor,
    jobs: int,
    *,
    chunk_logits: int = CHUNK_LOGITS,
) -> torch.Tensor:
    """Return each job's loss in nats, summed over its rows: [jobs] float32.

    hidden is [rows, hidden size] in the dtype to compute in; targets are [rows] token ids, owners
    [rows] numbers below `jobs`. `head` is a linear layer, frozen: gradients go to hidden alone.
    Logits are widened to float32 before anything is summed over them.
    """
    losses: torch.Tensor = _SummedLosses.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, targets, owners, jobs, chunk_logits
    )
    return losses


class _SummedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        owners: torch.Tensor,
        jobs: int,
        chunk_logits: int,
    ) -> torch.Tensor:
        losses = hidden.new_zeros(jobs, dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight = weight.to(hidden.dtype)
        bias = None if bias is None else bias.to(hidden.dtype)
        rows = max(1, chunk_logits // len(weight))
        for start in range(0, len(hidden), rows):
            chunk = slice(start, start + rows)
            logits = linear(hidden[chunk], weight, bias).float()
            lost = _to_probabilities(logits, targets[chunk])
            losses.index_add_(0, owners[chunk], lost)
            if gradient is not None:
                logits[torch.arange(len(logits), device=logits.device), targets[chunk]] -= 1
                torch.mm(logits.to(hidden.dtype), weight, out=gradient[chunk])
        if gradient is not None:
            ctx.save_for_backward(gradient, owners)
        return losses

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[Any, ...]:
        gradient, owners = ctx.saved_tensors
        weights = outer[owners].unsqueeze(1)
        return ((gradient * weights).to(gradient.dtype), None, None, None, None, None, None)


def _to_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Turn logits into probabilities in place; return the loss of each row."""
    logits -= logits.amax(1, keepdim=True)
    wanted = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    total = logits.exp_().sum(1)
    logits /= total.unsqueeze(1)
    return total.log() - wanted

"""What training needs of the bank, and what it makes of a device that has no memory left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.step.bank import Share, StepLoss
from trainer_svc.protocol import OUT_OF_MEMORY


class Bank(Protocol):
    """Runs each job's records through its adapter, all jobs in one pass of the base."""

    def forward(self, shares: Mapping[str, Share]) -> Mapping[str, StepLoss]:
        """Return the loss of each job's share, with its graph."""


def out_of_memory(tokens: int, limit: int) -> FailedPrecondition:
    """Return the error of a job with one record that is too long for the device."""
    return FailedPrecondition(
        f"a record of {tokens} tokens does not fit in the device's memory, not even in a pass of "
        f"its own (a forward pass takes up to {limit} tokens); lower max_sequence_length",
        reason=OUT_OF_MEMORY,
        tokens=tokens,
        limit=limit,
    )

"""What decoding needs of a batch of rows, however their past is kept."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from trainer_svc.engine.step.product import LayerUpdate


@dataclass(frozen=True)
class Part:
    """Prompts of one job with one prefix, as they are read."""

    updates: Mapping[int, LayerUpdate] | None
    """What the job's adapter adds; None: nothing."""
    prefix: Sequence[int]
    suffixes: Sequence[Sequence[int]]
    room: int
    """Tokens that any row may read after the prefix."""


class Rows(Protocol):
    """Prompts that are read together, each a row; `begin` comes first."""

    @property
    def step_tokens(self) -> int:
        """Tokens that a pass computes when each row reads one more."""

    def begin(self) -> Generator[None, None, torch.Tensor]:
        """Read the prompts in pieces; return the last hidden state of each: [rows, hidden size]."""

    def follow(self, token_ids: torch.Tensor, *, remember: bool = True) -> torch.Tensor:
        """Read further tokens, [rows, tokens] on the host, and return their hidden states.

        [rows, tokens, hidden size]. Unless they are remembered, the rows are as they were.
        """

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all other rows; those kept are counted anew."""

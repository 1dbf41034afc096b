"""What decoding needs of a batch of rows, however their past is kept."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import torch


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

"""Dropout masks that are a function of where they fall, not of when they are drawn.

A token's mask depends on its job's seed, the optimizer step, the record, its place in it and the
layer: so a job drops the same alone and in a group, however its step is cut into micro-batches, on
every device, and when a layer is computed again for its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_WORD = 2**32
# Odd multipliers and shifts of a 32-bit finaliser with low bias (Chris Wellons, "Prospecting for
# Hash Functions", 2018).
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B


@dataclass(frozen=True)
class Dropout:
    """What a job's masks are drawn from in one optimizer step."""

    seed: int
    step: int
    records: Sequence[int]
    """One number for each example of the share: its index in the training data."""

    def of(self, part: slice) -> Dropout:
        """Return that of some of the examples."""
        return Dropout(self.seed, self.step, self.records[part])


def row_keys(dropout: Dropout, lengths: Sequence[int]) -> torch.Tensor:
    """Return a key for each token of the share: [sum of lengths] int32.

    `lengths` are the token counts of its examples.
    """
    if len(dropout.records) != len(lengths):
        raise ValueError(f"{len(lengths)} examples, but {len(dropout.records)} record numbers")
    key = torch.zeros(1, dtype=torch.int64)
    for part in (dropout.seed, dropout.seed // _WORD, dropout.step):
        key = _mixed_words(key * 31 + part % _WORD)
    records = _mixed_words(key * 31 + torch.tensor(dropout.records, dtype=torch.int64))
    places = torch.cat([torch.arange(length) for length in lengths])
    keys = _mixed_words(records.repeat_interleave(torch.tensor(lengths)) * 31 + places)
    return _as_int32(keys)


def dropout_mask(keys: torch.Tensor, layer: int, width: int, share: float) -> torch.Tensor:
    """Return [rows, width] bool: False for a share of the places, to the next 1 / 65,536."""
    pairs = (width + 1) // 2
    # Made where the keys are: each layer of a pass would wait for a copy.
    columns = _mixed_words(torch.arange(pairs, device=keys.device) + layer * 0x9E3779B1)
    words = keys[:, None] ^ _as_int32(columns)
    _mix(words)
    # A word of 32 bits decides for two places.
    drawn = words.view(torch.int16)[:, :width]
    # A share that rounds to 1 is the largest below it: no word of 16 bits could be compared with 1.
    return drawn >= min(round(share * 2**16), 2**16 - 1) - 2**15


def _mix(words: torch.Tensor) -> None:
    """Mix int32 words in place. Torch shifts their sign in, hence the masks."""
    words ^= (words >> 16) & 0xFFFF
    words *= _FIRST
    words ^= (words >> 15) & 0x1FFFF
    words *= _SECOND - _WORD
    words ^= (words >> 16) & 0xFFFF


def _mixed_words(values: torch.Tensor) -> torch.Tensor:
    """Return int64 values in [0, 2**32), each mixed from the low 32 bits of its own."""
    words = _as_int32(values)
    _mix(words)
    return words.to(torch.int64) & (_WORD - 1)


def _as_int32(values: torch.Tensor) -> torch.Tensor:
    low = values & (_WORD - 1)
    return torch.where(low >= _WORD // 2, low - _WORD, low).to(torch.int32)

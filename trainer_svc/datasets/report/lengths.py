"""How long texts are, in bins that double."""

from __future__ import annotations

from array import array

import numpy as np

from trainer_svc.datasets.index import MAX_ROWS
from trainer_svc.datasets.report.model import LengthBin, Lengths

_FIRST, _BOUNDS = 16, 17
"""Bins end at 16, 32, 64, ... 2^20 characters; a record of the largest upload line fits these."""


class LengthCounter:
    """Counts lengths; 4 bytes of memory a record, for the median of the first 2^20."""

    def __init__(self) -> None:
        self._total = 0
        self._longest = 0
        self._bins = [0] * (_BOUNDS + 1)
        self._lengths = array("I")

    def add(self, characters: int) -> None:
        """Count one text."""
        self._total += characters
        self._longest = max(self._longest, characters)
        self._bins[min((characters // _FIRST).bit_length(), _BOUNDS)] += 1
        if len(self._lengths) < MAX_ROWS:
            self._lengths.append(characters)

    def finish(self) -> Lengths:
        """Return the figures; of no texts, zeros."""
        return Lengths(
            total=self._total,
            median=int(np.median(self._lengths)) if self._lengths else 0,
            longest=self._longest,
            bins=tuple(
                LengthBin(at_least=_bound(index - 1), below=_below(index), records=records)
                for index, records in enumerate(self._bins)
                if records
            ),
        )


def _bound(index: int) -> int:
    return _FIRST * 2**index if index >= 0 else 0


def _below(index: int) -> int | None:
    return _bound(index) if index < _BOUNDS else None

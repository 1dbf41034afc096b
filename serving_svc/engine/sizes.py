"""The few sizes in which our LoRA kernels multiply.

oneDNN prepares a kernel for every new size of a product, 0.7 ms each time where a product of a
decoding step takes 0.1 ms, and keeps the last 1,024: with every number of tokens a size of its own,
it would prepare without end.
"""

from __future__ import annotations

_TILE = 16
"""Rows that a core multiplies at once: fewer take as long."""


def few_sizes(count: int, tile: int = _TILE) -> int:
    """Return the size to use for `count`: the next of 16, 32, 48, 64, 96, 128, 192, 256, …

    Only multiples of `tile`, which is a power of 2.
    """
    octave = max(tile, 1 << (count - 1).bit_length())
    between = octave * 3 // 4
    return between if count <= between and between % tile == 0 else octave

"""An adapter's numbers as an engine will hold them, and what they may do to its base.

What vLLM does with a weight when it loads (0.32, `vllm/lora/lora_model.py` and `lora_weights.py`):
it rounds A and B to the engine's number format, then multiplies B by the scaling in float32 and
rounds that. Each of the three must be finite.

Finite weights are not enough. One large enough to overflow inside a forward pass leaves NaN in its
own blocks of the KV cache, and vLLM's attention on a CPU reads the unfilled end of a block that it
gives to somebody else: 0 x NaN. The next tenant, or the base, then emits token 0, also after the
adapter is gone (seen in float32 and float16). So what an adapter can add is bounded as well.

The trainer asks before it publishes what serving's gate asks before it loads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tailorbird.errors import AdapterRefused

LARGEST = {
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float16": 65504.0,
}
"""The largest number of each format that an engine may hold weights in."""

MAX_ADDED = {"float32": 1e6, "bfloat16": 1e6, "float16": LARGEST["float16"] / 4}
"""What A, and B after it, may give at most for an input whose root mean square is 1.

A normalised input is of that size, times the norm's weight. Between two norms at most three layers
multiply (gate and up, then down), so that with norm weights up to 100 the sum stays under 1e25: it
cannot overflow in 8 bits of exponent. Honest adapters add at most some hundreds in this worst case.
In float16 no bound that honest adapters meet excludes an overflow; this one excludes it in one
layer, and the rest is the engine's to keep out of the KV cache.
"""

Block = npt.NDArray[np.float32]
"""Some rows of a matrix: [rows, columns]."""

_TENSOR_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


class Numbers(NamedTuple):
    """One matrix: its shape, and all its rows in blocks, in order."""

    shape: tuple[int, ...]
    blocks: Iterable[Block]


class _Measure(NamedTuple):
    """Euclidean norm of a whole matrix, and of its longest row."""

    whole: float
    row: float


def scaling_of(rank: int, alpha: float, use_rslora: bool) -> float:
    """Return what B is multiplied by, a finite float32 above 0; AdapterRefused if it is not."""
    scaling = alpha / (math.sqrt(rank) if use_rslora else rank)
    if scaling > LARGEST["float32"]:
        raise AdapterRefused(
            f"alpha {alpha:g} at rank {rank} is beyond float32", reason="NOT_FINITE"
        )
    if not scaling > 0:
        raise AdapterRefused(f"alpha is {alpha:g}, not above 0", reason="CONFIG_UNSUPPORTED")
    return scaling


def place(name: str) -> tuple[str, str]:
    """Return the layer that a tensor is of, and "A" or "B"; twice "" if it is no LoRA matrix."""
    match = _TENSOR_NAME.fullmatch(name)
    return (match[1], match[2]) if match else ("", "")


def check_numbers(matrices: Mapping[str, Numbers], scaling: float, dtype: str) -> None:
    """Check pairs A (rank, in) and B (out, rank) by their tensors' names; blocking.

    `scaling` is what B is multiplied by, `dtype` the engine's number format, one of LARGEST. Raises
    AdapterRefused (NOT_FINITE).
    """
    measures: dict[tuple[str, str], _Measure] = {}
    for name, (_, blocks) in matrices.items():
        layer, part = place(name)
        factor = scaling if part == "B" else None
        measures[layer, part] = _measure(name, blocks, factor, dtype)
    for name, (shape, _) in matrices.items():
        layer, part = place(name)
        if part == "A":
            # |A x| <= |A| |x|, an element of B A x <= the longest row of B times that, and |x| is
            # the root of its width.
            a = measures[layer, "A"].whole * math.sqrt(shape[1])
            added = a * max(1.0, measures[layer, "B"].row)
            if not added <= MAX_ADDED[dtype]:
                raise AdapterRefused(
                    f"{layer} may add {added:.3g} to what its layer gives; in {dtype} at "
                    f"most {MAX_ADDED[dtype]:g} is safe",
                    reason="NOT_FINITE",
                )


def _measure(name: str, blocks: Iterable[Block], factor: float | None, dtype: str) -> _Measure:
    squares = longest = 0.0
    for block in blocks:
        held = _finite(block, name, "holds NaN or infinity")
        held = _finite(ROUND[dtype](held), name, f"holds numbers beyond {dtype}")
        if factor is not None:
            with np.errstate(over="ignore", under="ignore"):
                held = held * np.float32(factor)
            held = _finite(ROUND[dtype](held), name, f"times its scaling is beyond {dtype}")
        rows = np.square(held, dtype=np.float64).sum(axis=1)
        squares += float(rows.sum())
        longest = max(longest, float(rows.max()))
    return _Measure(math.sqrt(squares), math.sqrt(longest))


def _finite(block: Block, name: str, otherwise: str) -> Block:
    if not np.isfinite(block).all():
        raise AdapterRefused(f"tensor {name} {otherwise}", reason="NOT_FINITE")
    return block


def _to_float16(block: Block) -> Block:
    with np.errstate(over="ignore", under="ignore"):
        return block.astype(np.float16).astype(np.float32)


def _to_bfloat16(block: Block) -> Block:
    """Round to nearest, ties to even: bfloat16 is the upper half of a float32.

    Infinity stays what it is; NaN need not stay NaN.
    """
    bits = block.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


ROUND: dict[str, Callable[[Block], Block]] = {
    "float32": lambda block: block,
    "bfloat16": _to_bfloat16,
    "float16": _to_float16,
}
"""How each number format holds a block, which stays in float32."""

"""An adapter's tensors against the base: names, shapes, and numbers as the engine will hold them.

What vLLM does with a weight when it loads (0.32, `vllm/lora/lora_model.py` and `lora_weights.py`):
it rounds A and B to the engine's number format, then multiplies B by the scaling in float32 and
rounds that. Each of the three must be finite.

Finite weights are not enough. One large enough to overflow inside a forward pass leaves NaN in its
own blocks of the KV cache, and vLLM's attention on a CPU reads the unfilled end of a block that it
gives to somebody else: 0 x NaN. The next tenant, or the base, then emits token 0, also after the
adapter is gone (seen in float32 and float16). So what an adapter can add is bounded as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serving_svc.adapters.gate.safetensors_file import (
    FLOAT_DTYPES,
    Block,
    Tensor,
    header_limit,
    read_header,
    read_rows,
)
from serving_svc.adapters.gate.untrusted import shown
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import ADAPTER_WEIGHTS

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

_TENSOR_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


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


def check_tensors(
    tensors: Mapping[str, tuple[int, ...]], rank: int, linear: Mapping[str, tuple[int, int]]
) -> None:
    """Check that the tensors are pairs A (rank, in) and B (out, rank) of layers in `linear`.

    AdapterRefused with TENSOR_MISMATCH if not: vLLM serves the base for a wrong prefix, garbage for
    a smaller width, ignores what it has no layer for, and may end its process for a missing half.
    """
    modules: dict[str, set[str]] = {}
    for name, shape in tensors.items():
        module, part = _place(name)
        if module not in linear:
            raise _mismatch(f"tensor {shown(name)} belongs to no linear layer of the base")
        outputs, inputs = linear[module]
        needed = (rank, inputs) if part == "A" else (outputs, rank)
        if shape != needed:
            raise _mismatch(
                f"tensor {shown(name)} has shape {shown(shape)}; the base and rank {rank} need "
                f"{needed}"
            )
        modules.setdefault(module, set()).add(part)
    for module, parts in modules.items():
        if len(parts) != 2:
            raise _mismatch(f"{shown(module)} has only one of lora_A and lora_B")
    if not modules:
        raise _mismatch("it has no tensors")


def target_modules(tensors: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Return the last parts of the names of the layers that the tensors belong to."""
    return frozenset(_place(name)[0].rpartition(".")[2] for name in tensors)


def check_weights(
    path: Path, told: Mapping[str, tuple[int, ...]], scaling: float, dtype: str
) -> None:
    """Check the file at `path`: it holds the tensors `told`, and numbers that can be served.

    `told` has passed check_tensors; `dtype` is the engine's, one of LARGEST. Blocking. Raises
    AdapterRefused with TENSOR_MISMATCH or NOT_FINITE.
    """
    try:
        tensors = read_header(path, header_limit(told))
        if {name: tensor.shape for name, tensor in tensors.items()} != dict(told):
            raise _mismatch(f"the tensors in {ADAPTER_WEIGHTS} are not those of the manifest")
        for name, tensor in tensors.items():
            if tensor.dtype not in FLOAT_DTYPES:
                raise _mismatch(
                    f"tensor {shown(name)} is {shown(tensor.dtype)}, not one of "
                    f"{sorted(FLOAT_DTYPES)}"
                )
        _check_numbers(path, tensors, scaling, dtype)
    except ValueError as error:
        raise _mismatch(f"{ADAPTER_WEIGHTS}: {error}") from error


def _place(name: str) -> tuple[str, str]:
    match = _TENSOR_NAME.fullmatch(name)
    return (match[1], match[2]) if match else ("", "")


def _check_numbers(path: Path, tensors: Mapping[str, Tensor], scaling: float, dtype: str) -> None:
    measures: dict[tuple[str, str], _Measure] = {}
    for name, tensor in tensors.items():
        module, part = _place(name)
        factor = scaling if part == "B" else None
        measures[module, part] = _measure(path, name, tensor, factor, dtype)
    for name, tensor in tensors.items():
        module, part = _place(name)
        if part == "A":
            # |A x| <= |A| |x|, an element of B A x <= the longest row of B times that, and |x| is
            # the root of its width.
            a = measures[module, "A"].whole * math.sqrt(tensor.shape[1])
            added = a * max(1.0, measures[module, "B"].row)
            if not added <= MAX_ADDED[dtype]:
                raise AdapterRefused(
                    f"{shown(module)} may add {added:.3g} to what its layer gives; in {dtype} at "
                    f"most {MAX_ADDED[dtype]:g} is safe",
                    reason="NOT_FINITE",
                )


def _measure(path: Path, name: str, tensor: Tensor, factor: float | None, dtype: str) -> _Measure:
    squares = longest = 0.0
    for block in read_rows(path, tensor):
        held = _finite(block, name, "holds NaN or infinity")
        held = _finite(_ROUND[dtype](held), name, f"holds numbers beyond {dtype}")
        if factor is not None:
            with np.errstate(over="ignore", under="ignore"):
                held = held * np.float32(factor)
            held = _finite(_ROUND[dtype](held), name, f"times its scaling is beyond {dtype}")
        rows = np.square(held, dtype=np.float64).sum(axis=1)
        squares += float(rows.sum())
        longest = max(longest, float(rows.max()))
    return _Measure(math.sqrt(squares), math.sqrt(longest))


def _finite(block: Block, name: str, otherwise: str) -> Block:
    if not np.isfinite(block).all():
        raise AdapterRefused(f"tensor {shown(name)} {otherwise}", reason="NOT_FINITE")
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


_ROUND: dict[str, Callable[[Block], Block]] = {
    "float32": lambda block: block,
    "bfloat16": _to_bfloat16,
    "float16": _to_float16,
}


def _mismatch(message: str) -> AdapterRefused:
    return AdapterRefused(message, reason="TENSOR_MISMATCH")

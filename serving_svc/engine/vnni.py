"""vLLM's own products for small matrices in bfloat16, one factor laid out beforehand.

The layout is VNNI's: blocks of 32 outputs, in them pairs of inputs side by side. For a decoding
step they take half as long as torch's: a call costs 5 µs where oneDNN's costs 25 (one core of an
EPYC 9004), and the tokens come in blocks of 32, so that few kernels are prepared. They need AVX-512
with bfloat16; in float16 they would end the process.
"""

from __future__ import annotations

import os
from functools import cache

import torch
from vllm.platforms import current_platform

_KERNELS = torch.ops._C  # noqa: SLF001 - vLLM's name for them

BLOCK = 32
"""Outputs, and inputs, that come together."""


# With fewer threads than asked for they leave parts of the result as they found them, and on a
# processor made out to be older they end the process.
_AGAINST = (
    *("OMP_DYNAMIC", "OMP_THREAD_LIMIT", "KMP_DYNAMIC_MODE"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
)


@cache
def _is_here() -> bool:
    if any(os.environ.get(name) for name in _AGAINST):
        return False
    if not torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001 - as vLLM asks
        return False
    current_platform.import_kernels()
    names = ("convert_weight_packed", "weight_packed_linear", "bmm_cpu")
    return all(hasattr(_KERNELS, name) for name in names)


def can_multiply(dtype: torch.dtype, outputs: int, inputs: int) -> bool:
    """Return whether weights of this shape and format can be laid out on this machine."""
    return dtype is torch.bfloat16 and outputs % BLOCK == 0 == inputs % BLOCK and _is_here()


def lay_out(weights: torch.Tensor) -> torch.Tensor:
    """Return (…, outputs, inputs) in the layout, under the same shape.

    Each 32 rows of the result are made of the same 32 rows of `weights` alone.
    """
    return _KERNELS.convert_weight_packed(weights.contiguous())  # type: ignore[no-any-return]


def lay_inputs_anew(laid: torch.Tensor, first: int, weights: torch.Tensor) -> None:
    """Write (slices, outputs, some inputs), inputs from `first` on, over what was laid out.

    `first` and the number of inputs are multiples of BLOCK.
    """
    slices, outputs, inputs = laid.shape
    width = weights.size(-1)
    blocks = laid.view(slices, outputs // BLOCK, inputs // 2, BLOCK, 2)
    part = lay_out(weights).view(slices, outputs // BLOCK, width // 2, BLOCK, 2)
    blocks[:, :, first // 2 : (first + width) // 2].copy_(part)


def multiply(x: torch.Tensor, laid: torch.Tensor) -> torch.Tensor:
    """Return x (tokens, inputs) by weights laid out, (outputs, inputs): (tokens, outputs)."""
    made = x.new_empty((x.size(0), laid.size(0)))
    _KERNELS.weight_packed_linear(made, x, laid, None, True)
    return made


def multiply_slices(x: torch.Tensor, laid: torch.Tensor) -> torch.Tensor:
    """Return x (tokens, slices, inputs) by weights laid out, (slices, outputs, inputs).

    The result is (tokens, slices, outputs).
    """
    made = x.new_empty((x.size(0), laid.size(0), laid.size(1)))
    _KERNELS.bmm_cpu(made.transpose(0, 1), x.transpose(0, 1), laid, True, None)
    return made

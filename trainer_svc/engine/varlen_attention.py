"""Attention of all segments of a packed sequence in one kernel, for a GPU.

T. Dao: FlashAttention-2 (arXiv:2307.08691), as torch has it; it is told where the segments begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import cast

import torch

_HEAD_DIM = 192
"""Beyond it the backward pass is not for every GPU."""
_CAPABILITY = (8, 0)


def fits(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Tell whether the kernel takes such tensors: 16 bits, on Ampere or later."""
    return (
        device.type == "cuda"
        and dtype in {torch.bfloat16, torch.float16}
        and head_dim % 8 == 0
        and head_dim <= _HEAD_DIM
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= _CAPABILITY
    )


def attend_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segment_lengths: Sequence[int],
    scaling: float,
) -> torch.Tensor:
    """Attend causally within each segment.

    query is [tokens, heads, head_dim], key and value [tokens, key heads, head_dim], all of one
    dtype, that of the result: [tokens, heads, head_dim].
    """
    # It takes seconds, which a worker without a GPU need not wait for.
    from torch.nn.attention.varlen import varlen_attn

    offsets = _offsets(tuple(segment_lengths), query.device)
    longest = max(segment_lengths)
    attended = varlen_attn(
        query,
        key,
        value,
        offsets,
        offsets,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return cast("torch.Tensor", attended)


# Every layer of a pass asks for the same, and a copy for each would wait for the device each time.
@lru_cache(maxsize=4)
def _offsets(segment_lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return where each segment begins, and where the last one ends: [segments + 1] int32."""
    ends = torch.tensor([0, *accumulate(segment_lengths)], dtype=torch.int32)
    if device.type == "cuda":
        ends = ends.pin_memory()
    return ends.to(device, non_blocking=True)

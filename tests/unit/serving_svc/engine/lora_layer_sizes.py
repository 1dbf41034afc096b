"""python lora_layer_sizes.py: the bytes that vLLM's LoRA layers take, one slot, as JSON on stdout.

{ways: {module: bytes}} for the base of test_plan, each module as one of `ways` devices builds it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any
from unittest import mock

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.config.lora import LoRAConfig
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.lora import layers as lora
from vllm.model_executor.layers import linear

from tests.unit.serving_svc.engine.test_plan import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KV_HEADS,
    RANK,
)

_SLOTS = 3


def _sizes() -> dict[str, int]:
    heads = HEADS * HEAD_DIM
    qkv = linear.QKVParallelLinear(HIDDEN, HEAD_DIM, HEADS, KV_HEADS, bias=False)
    gate_up = linear.MergedColumnParallelLinear(HIDDEN, [INTERMEDIATE] * 2, bias=False)
    o = linear.RowParallelLinear(heads, HIDDEN, bias=False)
    down = linear.RowParallelLinear(INTERMEDIATE, HIDDEN, bias=False)
    return {
        "q_proj k_proj v_proj": _size(lora.MergedQKVParallelLinearWithLoRA(qkv)),
        "qkv_proj": _size(lora.QKVParallelLinearWithLoRA(qkv)),
        "gate_proj up_proj": _size(lora.MergedColumnParallelLinearWithLoRA(gate_up)),
        "gate_up_proj": _size(lora.ColumnParallelLinearWithLoRA(gate_up)),
        "o_proj": _size(lora.RowParallelLinearWithLoRA(o)),
        "down_proj": _size(lora.RowParallelLinearWithLoRA(down)),
    }


def _size(layer: Any) -> int:
    config = LoRAConfig(max_lora_rank=RANK, max_loras=_SLOTS, lora_dtype=torch.bfloat16)
    layer.create_lora_weights(_SLOTS, config)
    tensors = (*layer.lora_a_stacked, *layer.lora_b_stacked)
    return int(sum(tensor.numel() * tensor.element_size() for tensor in tensors)) // _SLOTS


def main() -> None:
    found = {}
    with set_current_vllm_config(VllmConfig()), tempfile.NamedTemporaryFile() as meeting:
        init_distributed_environment(1, 0, f"file://{meeting.name}", 0, backend="gloo")
        initialize_model_parallel(1, 1)
        for ways in (1, 2, 4):
            asked = "get_tensor_model_parallel_world_size"
            with (
                mock.patch.object(linear, asked, return_value=ways),
                mock.patch(f"vllm.model_executor.parameter.{asked}", return_value=ways),
            ):
                found[ways] = _sizes()
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

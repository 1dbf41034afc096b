"""What the gate takes for granted of how vLLM loads an adapter."""

from __future__ import annotations

import subprocess
import sys

_AS_VLLM_LOADS = """
import sys, torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.lora_weights import PackedLoRALayerWeights
helper = PEFTHelper.from_dict({"r": 7, "lora_alpha": 21, "target_modules": ["q_proj"]})
helper.validate_legal(type("Config", (), {"max_lora_rank": 8}))
name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
tensors = {
    name + "A.weight": torch.full((7, 12), 70000.0),
    name + "B.weight": torch.full((16, 7), 30000.0),
}
lora = LoRAModel.from_lora_tensors(1, tensors, helper, device="cpu", dtype=torch.float16)
(layer,) = lora.loras.values()
assert torch.isinf(layer.lora_a).all() and torch.isfinite(layer.lora_b).all(), "rounded first"
layer.optimize()
assert layer.lora_b.dtype == torch.float16 and torch.isinf(layer.lora_b).all(), "scaled then"
"""


def test_vllm_rounds_then_scales_and_takes_any_rank_below_its_cap() -> None:
    # In a process of its own: vLLM changes what it is imported into.
    done = subprocess.run(
        [sys.executable, "-c", _AS_VLLM_LOADS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]

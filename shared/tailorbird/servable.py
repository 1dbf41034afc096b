"""What the pinned vLLM can serve adapters of, so that nothing else is trained.

Measured with vLLM 0.32 on a CPU, on a small random model of each architecture, by
`python -m tests.integration.families`. docs/bases.md has all that it found.
"""

from __future__ import annotations

LINEAR_MODULES = frozenset(
    {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "qkv_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "gate_up_proj",
    }
)
"""Last parts of the names of layers that adapters may change: neither embeddings nor the head."""

_NO_LORA = "vLLM 0.32 has no LoRA for this architecture"
_EXPERTS = "with LoRA, vLLM 0.32 runs experts by Triton kernels, which a CPU has not"

NOT_SERVED = {
    "BambaForCausalLM": "vLLM 0.32 cannot run its state-space layers",
    "Glm4ForCausalLM": "vLLM 0.32 loads no adapter of its gate_up_proj",
    "StableLmForCausalLM": _NO_LORA,
}
"""Architectures, as config.json names them, whose adapters are served nowhere, and why."""

NOT_ON_A_CPU = {
    "GraniteMoeHybridForCausalLM": _EXPERTS,
    "Lfm2ForCausalLM": "vLLM 0.32's logprobs of it are 0.2 nats off the trainer's on a CPU",
    "MixtralForCausalLM": _EXPERTS,
    "Qwen2MoeForCausalLM": _EXPERTS,
    "Qwen3MoeForCausalLM": _EXPERTS,
}
"""The same, where serving runs on a CPU. Nothing has been measured on a GPU."""


def why_not_served(architecture: str, device: str) -> str:
    """Return why adapters of this architecture are not served; "" if they are, or nobody knows.

    `device` is "cpu" or "cuda".
    """
    why = NOT_SERVED.get(architecture, "")
    return why or (NOT_ON_A_CPU.get(architecture, "") if device == "cpu" else "")

"""Tiny random models of many families, each a base on disk with a tokenizer and a chat template."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.unit.trainer_svc.engine.tiny import CONTEXT, make_tokenizer

_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
_MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_WINDOW = {"sliding_window": 8}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1}
_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 2}


@dataclass(frozen=True)
class Family:
    """A model type of transformers, and its configuration beyond the common shape.

    `without` names parts of the common shape that its configuration does not take.
    """

    model_type: str
    changes: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


PACKED = {
    "Llama": Family("llama"),
    "Qwen2": Family("qwen2"),
    "Qwen3": Family("qwen3"),
    "Mistral": Family("mistral"),
    "Mistral, window": Family("mistral", _WINDOW),
    "Gemma": Family("gemma"),
    "Gemma 3": Family(
        "gemma3_text", {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
    ),
    "Phi": Family("phi", {"num_key_value_heads": 2}),
    "Phi-3": Family("phi3"),
    "Mixtral": Family("mixtral", {**_MOE, "num_local_experts": 4}),
    "Qwen2-MoE": Family(
        "qwen2_moe", {**_MOE, "num_experts": 4, "shared_expert_intermediate_size": 64}
    ),
    "Qwen3-MoE": Family("qwen3_moe", {**_MOE, "num_experts": 4}),
    "OLMo": Family("olmo"),
    "OLMo 2": Family("olmo2"),
    "StableLM": Family("stablelm"),
    "Granite": Family("granite"),
    "SmolLM3": Family("smollm3"),
    "GLM-4": Family("glm4"),
    "Nemotron": Family("nemotron"),
    "StarCoder2": Family("starcoder2"),
    "Apertus": Family("apertus"),
}
"""Records of one sequence stay apart."""

ALONE = {
    "Falcon-H1": Family("falcon_h1", {**_MAMBA, "mamba_d_ssm": 128}),
    "OPT": Family("opt", {"word_embed_proj_dim": 64, "ffn_dim": 128}),
    "Granite hybrid": Family(
        "granitemoehybrid",
        {
            **_MAMBA,
            **_MOE,
            "num_local_experts": 4,
            "shared_intermediate_size": 64,
            "layer_types": ["mamba", "attention"],
        },
    ),
    "Bamba": Family("bamba", {**_MAMBA, "attn_layer_indices": [1], "attn_rotary_emb": 16}),
    "LFM2": Family(
        "lfm2",
        {
            "layer_types": ["conv", "full_attention"],
            "conv_dim": 64,
            "block_dim": 64,
            "block_ff_dim": 128,
            "block_multiple_of": 16,
        },
    ),
    "Qwen3-Next": Family(
        "qwen3_next",
        {
            **_MOE,
            "num_experts": 4,
            "shared_expert_intermediate_size": 64,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
        },
    ),
    "Phi-3, long": Family(
        "phi3",
        {
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 16,
                "long_factor": [4.0] * 16,
            },
        },
    ),
}
"""Records of one sequence change each other."""

REFUSED = {
    "Gemma 2": Family("gemma2"),
    "Cohere": Family("cohere"),
    "GPT-2": Family("gpt2", _GPT, tuple(_SHAPE)),
    "GPT-NeoX": Family("gpt_neox", {}, ("num_key_value_heads", "head_dim")),
    "Falcon": Family("falcon", {"num_kv_heads": 2}, ("num_key_value_heads", "head_dim")),
    "BLOOM": Family("bloom", {"n_layer": 2, "n_head": 2}, ("num_key_value_heads", "head_dim")),
    "MPT": Family(
        "mpt", {"d_model": 64, "n_layers": 2, "n_heads": 2, "max_seq_len": CONTEXT}, tuple(_SHAPE)
    ),
    "gpt-oss": Family("gpt_oss", {**_MOE, "num_local_experts": 4}),
}
"""They cannot be trained."""

FAMILIES = PACKED | ALONE | REFUSED


def make_family(family: Family, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the base into `folder`. Its weights are large enough for a leak, or a LoRA, to show."""
    tokenizer = make_tokenizer()
    shape = {key: value for key, value in _SHAPE.items() if key not in family.without}
    config = AutoConfig.for_model(
        family.model_type,
        **{
            **shape,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": None,
            **family.changes,
        },
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

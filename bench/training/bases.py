"""Random bases: a Llama of a given shape, in memory or in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from bench.training.sizes import LlamaShape
from trainer_svc.engine.attention import attention_for
from trainer_svc.engine.base import Base

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def random_llama(shape: LlamaShape, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model whose weights were drawn on `device` from seed 0; frozen."""
    torch.manual_seed(0)
    config = _config(shape)
    with device:
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention_for(config)
        )
    model.eval().requires_grad_(False)
    return model


def as_base(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> Base:
    """Return the base as the engine holds one; it has no tokenizer."""
    return Base(
        model=model,
        tokenizer=None,
        device=device,
        dtype=dtype,
        compute_dtype=dtype,
        context=int(model.config.max_position_embeddings),
        hidden_size=int(model.config.hidden_size),
    )


def write_random_llama(
    shape: LlamaShape, folder: Path, dtype: torch.dtype, tokenizer_of: Path
) -> Path:
    """Write such a model, with the tokenizer in the folder `tokenizer_of`; return the folder."""
    disable_progress_bar()
    random_llama(shape, torch.device("cpu"), dtype).save_pretrained(folder)
    for name in _TOKENIZER_FILES:
        shutil.copy(tokenizer_of / name, folder / name)
    return folder


def _config(shape: LlamaShape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        tie_word_embeddings=not shape.untied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )

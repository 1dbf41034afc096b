"""The frozen base model and its tokenizer, loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.attention import attention_for

_LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


@dataclass(frozen=True)
class Base:
    """A causal language model with frozen weights.

    `dtype` is the checkpoint's own, in which adapters are saved. On cuda the weights keep it; on a
    CPU they are float32, and `autocast` says that matrix products may run in bfloat16: where the
    checkpoint is 16 bits wide (so that serving computes in 16 bits as well) and the CPU has
    bfloat16 instructions.
    """

    model: nn.Module
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    autocast: bool
    context: int
    hidden_size: int

    @property
    def decoder(self) -> Any:
        """The transformer below the output head."""
        return self.model.get_decoder()  # type: ignore[operator]

    @property
    def head(self) -> nn.Module:
        """The output head: hidden states to logits."""
        return self.model.get_output_embeddings()  # type: ignore[operator,no-any-return]

    @contextmanager
    def in_checkpoint_dtype(self) -> Iterator[None]:
        """Hold the frozen weights as the checkpoint has them, which is how serving computes.

        Nothing is lost on the way there and back: they were widened when they were loaded.
        """
        widened = [
            parameter
            for parameter in self.model.parameters()
            if not parameter.requires_grad and parameter.dtype != self.dtype
        ]
        dtypes = [parameter.dtype for parameter in widened]
        for parameter in widened:
            parameter.data = parameter.data.to(self.dtype)
        try:
            yield
        finally:
            for parameter, dtype in zip(widened, dtypes, strict=True):
                parameter.data = parameter.data.to(dtype)


def limit_memory(device: str, share: float) -> None:
    """Let this process take no more than `share` of the GPU's memory, so that serving has its own.

    More raises torch.OutOfMemoryError in whoever asks for it. The CUDA context is not counted.
    """
    if device == "cuda" and share < 1:
        torch.cuda.set_per_process_memory_fraction(share)


def load_base(path: str, device: str) -> Base:
    """Load the model and tokenizer in the folder `path`; no network is used.

    Raises FailedPrecondition (BASE_UNSUPPORTED) for a model whose logits are more than its head's
    product, which the chunked loss would miss.
    """
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    changes = [name for name in _LOGIT_CHANGES if getattr(config, name, None) not in {None, 1}]
    if changes:
        raise FailedPrecondition(
            f"the base in {Path(path).name} rescales its logits ({', '.join(changes)}); "
            "training does not support that",
            reason="BASE_UNSUPPORTED",
        )
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=dtype if device == "cuda" else torch.float32,
        attn_implementation=attention_for(config),
        local_files_only=True,
    )
    model.to(device).eval().requires_grad_(False)
    return Base(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(path, local_files_only=True),
        device=torch.device(device),
        dtype=dtype,
        autocast=device == "cpu" and dtype != torch.float32 and _cpu_has_bfloat16(),
        context=int(config.max_position_embeddings),
        hidden_size=int(config.hidden_size),
    )


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))

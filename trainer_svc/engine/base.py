"""The frozen base model and its tokenizer, loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tailorbird.errors import FailedPrecondition
from tailorbird.servable import LINEAR_MODULES
from trainer_svc.engine.attention import attention_for, attention_name
from trainer_svc.engine.probe import why_alone
from trainer_svc.engine.targets import adaptable_layers

_LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


@dataclass(frozen=True)
class Base:
    """A causal language model with frozen weights.

    `dtype` is the checkpoint's own. `compute_dtype` is that of matrix products in training:
    bfloat16 where the checkpoint is 16 bits wide (so that serving computes in 16 bits as well) and
    the device has bfloat16 instructions. A float16 checkpoint trains in bfloat16 too, whose range
    needs no scaled loss; serving's float16 keeps three bits more of each activation.

    On cuda the weights keep their dtype. On a CPU those of linear layers and embeddings keep it if
    products run in bfloat16; all others, and with them the hidden states, are float32.
    """

    model: nn.Module
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    compute_dtype: torch.dtype
    context: int
    hidden_size: int
    why_alone: str = ""
    """Why each record must be run by itself; empty where records of one sequence stay apart."""

    @property
    def packs(self) -> bool:
        """Whether records may be run one after another in one sequence."""
        return not self.why_alone

    @property
    def decoder(self) -> Any:
        """The transformer below the output head."""
        return self.model.get_decoder()  # type: ignore[operator]

    @property
    def hidden_dtype(self) -> torch.dtype:
        """Of the hidden states between layers, in training."""
        return torch.float32 if self.device.type == "cpu" else self.dtype

    @property
    def attention(self) -> str:
        """How records are kept apart in training; see `attention_name`."""
        return attention_name(self.decoder.config, self.device, self.compute_dtype)

    @property
    def embeddings(self) -> nn.Module:
        """Token ids to the first hidden states."""
        return self.model.get_input_embeddings()  # type: ignore[operator,no-any-return]

    @property
    def head(self) -> nn.Module:
        """The output head: hidden states to logits."""
        return self.model.get_output_embeddings()  # type: ignore[operator,no-any-return]

    @property
    def token_ids(self) -> int:
        """How many token ids have a row in both the embedding and the head."""
        return min(len(cast("nn.Linear", each).weight) for each in (self.embeddings, self.head))

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
    product, which the chunked loss would miss, for one without a layer that adapters may change,
    and for whatever `probe.why_alone` finds.
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
    compute_dtype = _compute_dtype(dtype, device)
    model = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=torch.float32 if compute_dtype == torch.float32 else dtype,
        attn_implementation=attention_for(config),
        local_files_only=True,
    )
    model.to(device).eval().requires_grad_(False)
    if device == "cpu":
        _widen(model)
    if not adaptable_layers(model.get_decoder()):
        raise FailedPrecondition(
            f"the base in {Path(path).name} has none of the linear layers "
            f"{', '.join(sorted(LINEAR_MODULES))} that adapters may change",
            reason="BASE_UNSUPPORTED",
        )
    return Base(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(path, local_files_only=True),
        device=torch.device(device),
        dtype=dtype,
        compute_dtype=compute_dtype,
        context=int(config.max_position_embeddings),
        hidden_size=int(config.hidden_size),
        why_alone=why_alone(model),
    )


def _compute_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    if dtype == torch.float32 or (device == "cpu" and not _cpu_has_bfloat16()):
        return torch.float32
    return torch.bfloat16


def _widen(model: nn.Module) -> None:
    """Make the hidden states float32, and every weight but those of linear layers, embeddings."""
    kept = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.float()


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))

"""Adapters over one frozen base: attach, forward, detach.

One adapter at a time for now. What the step loop sees of it would hold for many: `forward` takes
the records of each job and gives back each job's loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tailorbird.errors import InvalidArgument
from trainer_svc.engine.attention import PACKED
from trainer_svc.engine.base import Base
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.lora import ADAPTER, ForwardState, LowRankLinear
from trainer_svc.jobs.model import LoraSpec

_CHUNK_LOGITS = 2**26
"""Logits held at once by the loss: 256 MiB in float32."""


@dataclass(frozen=True)
class StepLoss:
    """The loss of one job's share of a step, in nats, summed over its trained tokens."""

    total: torch.Tensor
    trained_tokens: int
    tokens: int
    """Tokens read, prompts included."""


@dataclass(frozen=True)
class Adapter:
    """One job's low-rank update, attached."""

    model: PeftModel
    config: LoraConfig
    parameters: dict[str, nn.Parameter]
    """Trained in float32; by the names PEFT saves them under, sorted."""

    @property
    def size(self) -> int:
        """Parameters trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def tensors(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return a copy of the weights as PEFT saves them, on the CPU."""
        return {
            name: parameter.detach().to("cpu", dtype, copy=True).contiguous()
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def round_to(self, dtype: torch.dtype) -> None:
        """Replace each weight by what `dtype` keeps of it. Training is over after that."""
        for parameter in self.parameters.values():
            parameter.copy_(parameter.to(dtype))


class AdapterBank:
    """Holds the base; `attach` and `detach` leave it bit for bit as it was."""

    def __init__(self, base: Base, *, chunk_logits: int = _CHUNK_LOGITS) -> None:
        self.base = base
        self._chunk_logits = chunk_logits
        self._adapters: dict[str, Adapter] = {}
        self._state = ForwardState()

    def target_modules(self, asked: Sequence[str]) -> list[str]:
        """Return the linear layers to update, sorted; InvalidArgument names one the base lacks.

        Empty means every linear layer of the decoder; the embeddings and the head are none.
        """
        known = sorted(
            {
                name.rpartition(".")[2]
                for name, module in self.base.decoder.named_modules()
                if isinstance(module, nn.Linear)
            }
        )
        unknown = sorted(set(asked) - set(known))
        if unknown:
            raise InvalidArgument(
                "job.spec.lora.target_modules",
                f"the base has no linear layer {', '.join(unknown)}; it has {', '.join(known)}",
                reason="UNKNOWN_TARGET_MODULE",
                known=",".join(known),
            )
        return sorted(set(asked)) or known

    def attach(self, job: str, lora: LoraSpec, *, seed: int) -> Adapter:
        """Put a new adapter on the base; `seed` alone decides its first weights."""
        if self._adapters:
            raise ValueError("this bank holds one adapter at a time")
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
            target_modules=self.target_modules(lora.target_modules),
            lora_dropout=lora.dropout,
            use_rslora=lora.use_rslora,
            bias="none",
            task_type="CAUSAL_LM",
        )
        config._register_custom_module({nn.Linear: LowRankLinear})  # noqa: SLF001
        try:
            with torch.random.fork_rng(devices=[]):
                model = get_peft_model(self.base.model, config, adapter_name=ADAPTER)
        except Exception:
            _take_off(self.base.model)
            raise
        adapter = Adapter(model, config, _saved_parameters(model))
        self._adapters[job] = adapter
        generator = torch.Generator().manual_seed(seed)
        for module in model.modules():
            if isinstance(module, LowRankLinear):
                module.state = self._state
                module.initialise(generator)
        return adapter

    def detach(self, job: str) -> None:
        """Take the job's adapter off; nothing happens if it has none."""
        adapter = self._adapters.pop(job, None)
        if adapter is not None:
            adapter.model.unload()

    def forward(
        self, batches: Mapping[str, Sequence[Example]], *, dropout_seeds: Mapping[str, int]
    ) -> dict[str, StepLoss]:
        """Run each job's records through its adapter and return each job's loss, with gradients.

        A job without a dropout seed gets no dropout.
        """
        ((job, examples),) = batches.items()
        self._state.dropout = None
        if job in dropout_seeds:
            self._state.dropout = torch.Generator(self.base.device).manual_seed(dropout_seeds[job])
        targets_at, targets = _targets(examples)
        with self._autocast():
            hidden = self._hidden([example.token_ids for example in examples])
            trained = hidden.index_select(0, targets_at.to(hidden.device))
            total = self._summed_loss(trained, targets.to(hidden.device))
        tokens = sum(len(example.token_ids) for example in examples)
        return {job: StepLoss(total, len(targets), tokens)}

    @torch.no_grad()
    def logprobs(
        self, sequences: Sequence[torch.Tensor], *, with_adapter: bool
    ) -> list[torch.Tensor]:
        """Return for each sequence of n token ids the n - 1 logprobs of its later tokens, in nats.

        Computed in the checkpoint's number format, as serving does: what a small update does in
        bfloat16 is not what it does in float32.
        """
        result = []
        with self._only_base(not with_adapter), self.base.in_checkpoint_dtype():
            hidden = self._hidden(sequences)
            for ids, states in zip(
                sequences, torch.split(hidden, [len(ids) for ids in sequences]), strict=True
            ):
                logits = self.base.head(states[:-1]).float()
                targets = ids[1:].to(logits.device)
                result.append(-cross_entropy(logits, targets, reduction="none").cpu())
        return result

    def _hidden(self, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
        lengths = [len(ids) for ids in sequences]
        device = self.base.device
        positions = torch.cat([torch.arange(length) for length in lengths])
        decoder = self.base.decoder
        segments = {"segment_lengths": lengths} if _packs(decoder) else {}
        output = decoder(
            input_ids=torch.cat(list(sequences)).unsqueeze(0).to(device),
            position_ids=positions.unsqueeze(0).to(device),
            use_cache=False,
            **segments,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def _summed_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = max(1, self._chunk_logits // _vocabulary(self.base.head))
        if len(targets) <= rows:
            return self._chunk_loss(hidden, targets)
        parts = [
            checkpoint(self._chunk_loss, chunk, wanted, use_reentrant=False)
            for chunk, wanted in zip(
                torch.split(hidden, rows), torch.split(targets, rows), strict=True
            )
        ]
        return torch.stack(parts).sum()

    def _chunk_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(self.base.head(hidden).float(), targets, reduction="sum")

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.base.device.type, dtype=torch.bfloat16, enabled=self.base.autocast
        )

    @contextmanager
    def _only_base(self, only: bool) -> Iterator[None]:
        self._state.enabled = not only
        self._state.dropout = None
        try:
            yield
        finally:
            self._state.enabled = True


def _targets(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the packed sequence predicts a trained token, and which tokens those are."""
    places, tokens, offset = [], [], 0
    for example in examples:
        at = example.trained.nonzero().squeeze(1)
        places.append(at + (offset - 1))
        tokens.append(example.token_ids[at])
        offset += len(example.token_ids)
    return torch.cat(places), torch.cat(tokens)


def _saved_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    by_storage = {parameter.data_ptr(): parameter for parameter in model.parameters()}
    saved = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    return {name: by_storage[tensor.data_ptr()] for name, tensor in sorted(saved.items())}


def _take_off(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, LowRankLinear):
            model.set_submodule(name, module.base_layer)


def _packs(decoder: Any) -> bool:
    return bool(decoder.config._attn_implementation == PACKED)  # noqa: SLF001


def _vocabulary(head: nn.Module) -> int:
    weight = head.weight
    return len(weight) if isinstance(weight, torch.Tensor) else 1

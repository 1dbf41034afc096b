"""What PEFT makes of a low-rank specification on a base: its configuration, names and shapes.

PEFT is asked on a copy of the model without weights, so that the base is never touched.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, PretrainedConfig

from tailorbird.errors import InvalidArgument

_NAME = "default"
"""PEFT's name of the one adapter; it never reaches a file."""
_PREFIX = "base_model.model."
"""PEFT's name of the model within its own."""
_LAYOUTS = 64
"""Layouts kept; one takes PEFT about as long as a training step."""


class LowRank(Protocol):
    """What a job asks for."""

    @property
    def rank(self) -> int:
        """Columns of B, rows of A."""

    @property
    def alpha(self) -> float:
        """The update is scaled by alpha / rank, or by alpha / sqrt(rank)."""

    @property
    def use_rslora(self) -> bool:
        """Whether by the latter."""

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Kinds of linear layer; none means all that the base has."""

    @property
    def dropout(self) -> float:
        """Share of the inputs of A that are dropped."""


@dataclass(frozen=True)
class Spec:
    """What a job asks for, its target modules all named. See LowRank."""

    rank: int
    alpha: float
    use_rslora: bool
    target_modules: tuple[str, ...]
    dropout: float


@dataclass(frozen=True)
class Matrices:
    """The two matrices of one linear layer, by the names PEFT saves them under."""

    module: str
    """The linear layer's name in the model."""
    a: str
    b: str
    a_shape: tuple[int, int]
    b_shape: tuple[int, int]
    scale: float


@dataclass(frozen=True)
class Layout:
    """An adapter as PEFT would build it."""

    spec: Spec
    config: LoraConfig
    matrices: Sequence[Matrices]


class PeftFormat:
    """Lays adapters out for one base. `linears` are the names of the layers that can be updated."""

    def __init__(self, config: PretrainedConfig, linears: Collection[str]) -> None:
        with torch.device("meta"):
            self._skeleton = AutoModelForCausalLM.from_config(copy.deepcopy(config))
        others = {_kind(name) for name, _ in self._skeleton.named_modules() if name not in linears}
        self.target_modules = sorted({_kind(name) for name in linears} - others)
        """Every kind of linear layer of the decoder; the embeddings and the head are none."""
        self._layout = lru_cache(_LAYOUTS)(self._laid_out)

    def layout(self, lora: LowRank) -> Layout:
        """Return the adapter of this specification; InvalidArgument names a layer the base lacks.

        No target modules means all of them.
        """
        layout = self._layout(
            Spec(
                rank=lora.rank,
                alpha=lora.alpha,
                use_rslora=lora.use_rslora,
                target_modules=tuple(self._targets(lora.target_modules)),
                dropout=lora.dropout,
            )
        )
        return replace(layout, config=copy.deepcopy(layout.config))

    def _laid_out(self, spec: Spec) -> Layout:
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=int(spec.alpha) if spec.alpha.is_integer() else spec.alpha,
            target_modules=list(spec.target_modules),
            lora_dropout=spec.dropout,
            use_rslora=spec.use_rslora,
            bias="none",
            task_type="CAUSAL_LM",
        )
        with torch.device("meta"):
            model = get_peft_model(self._skeleton, config, _NAME)
        try:
            saved = get_peft_model_state_dict(
                model,
                state_dict=dict(model.named_parameters()),
                adapter_name=_NAME,
                save_embedding_layers=False,
            )
            names = {id(parameter): name for name, parameter in saved.items()}
            return Layout(
                spec,
                config,
                [
                    _matrices(name.removeprefix(_PREFIX), module, names)
                    for name, module in model.named_modules()
                    if isinstance(module, LoraLayer)
                ],
            )
        finally:
            model.unload()

    def _targets(self, asked: Sequence[str]) -> list[str]:
        unknown = sorted(set(asked) - set(self.target_modules))
        if unknown:
            known = ", ".join(self.target_modules)
            raise InvalidArgument(
                "job.spec.lora.target_modules",
                f"the base has no linear layer {', '.join(unknown)}; it has {known}",
                reason="UNKNOWN_TARGET_MODULE",
                known=",".join(self.target_modules),
            )
        return sorted(set(asked)) or self.target_modules


def _matrices(module: str, layer: LoraLayer, names: dict[int, str]) -> Matrices:
    a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
    return Matrices(
        module=module,
        a=names[id(a)],
        b=names[id(b)],
        a_shape=(a.shape[0], a.shape[1]),
        b_shape=(b.shape[0], b.shape[1]),
        scale=float(layer.scaling[_NAME]),
    )


def _kind(module: str) -> str:
    return module.rpartition(".")[2]

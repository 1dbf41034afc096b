"""Which layers of a base adapters may change: those that serving can load into."""

from __future__ import annotations

from torch import nn

from tailorbird.servable import LINEAR_MODULES

_OF_EXPERTS = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj"})


def adaptable_layers(decoder: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers that adapters may change, by their names in the decoder.

    Only nn.Linear itself: neither its subclasses, nor GPT-2's Conv1D, nor experts, which
    transformers 5 keeps as one parameter of three dimensions. PEFT 0.21 takes the names of expert
    layers for those of the experts, so where there are experts a dense or shared layer of such a
    name is left alone.
    """
    kinds = LINEAR_MODULES - _OF_EXPERTS if _has_experts(decoder) else LINEAR_MODULES
    return {
        name: module
        for name, module in decoder.named_modules()
        if type(module) is nn.Linear and name.rpartition(".")[2] in kinds
    }


def _has_experts(decoder: nn.Module) -> bool:
    return any(
        parameter.ndim == 3 and name.rpartition(".")[2] in _OF_EXPERTS
        for name, parameter in decoder.named_parameters()
    )

"""Gradient checkpointing of decoder layers: their input is kept, the rest is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer_svc.engine.step.lora import ForwardState


def recompute_layers(decoder: nn.Module, state: ForwardState) -> None:
    """Checkpoint every layer of `decoder`, which must be in evaluation mode.

    transformers' own switch wants training mode, in which layers may drop out by themselves.
    """
    for layer in decoder.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = _recomputed(layer.forward, state)


def _recomputed(forward: Callable[..., Any], state: ForwardState) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        spans, dtype = state.spans, state.dtype

        def compute(*args: Any, **kwargs: Any) -> Any:
            # The backward pass comes when the state is another's already, and on a GPU in another
            # thread. It may end before every output has been asked for.
            before = state.spans, state.dtype, state.handed
            state.spans, state.dtype, state.handed = spans, dtype, {}
            try:
                return forward(*args, **kwargs)
            finally:
                state.spans, state.dtype, state.handed = before

        return checkpoint(compute, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run

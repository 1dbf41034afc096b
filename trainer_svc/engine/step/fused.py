"""What stands between the linear layers of Llama and its like, in fewer passes over memory.

With many jobs' products in one, normalising, rotating and gating cost as much as the products do.
Each of these computes what the model's own module does, and its gradient, for frozen weights. Only
module types are replaced that are known to compute exactly that; the probes of an adapter, which
must be as served, use the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import silu
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from trainer_svc.engine.attention import PACKED, Remembered, attend
from trainer_svc.engine.step.lora import Branch, ForwardState, JoinedLinear

_NORMS = (
    llama.LlamaRMSNorm,
    mistral.MistralRMSNorm,
    qwen2.Qwen2RMSNorm,
    qwen3.Qwen3RMSNorm,
)
_MLPS = (llama.LlamaMLP, mistral.MistralMLP, qwen2.Qwen2MLP, qwen3.Qwen3MLP)
_ATTENTIONS = (llama.LlamaAttention, mistral.MistralAttention, qwen2.Qwen2Attention)

Forward = Callable[..., Any]


def fuse(decoder: nn.Module, state: ForwardState) -> None:
    """Replace the forward of every module of `decoder` that has a faster one here."""
    for module in decoder.modules():
        fused = _fused(module, state)
        if fused is not None:
            module.forward = _unless_served(module.forward, fused, state)


def _fused(module: Any, state: ForwardState) -> Forward | None:
    if type(module) in _NORMS:
        return _norm(module, state)
    if type(module) in _MLPS and isinstance(module.act_fn, nn.SiLU | SiLUActivation):
        joined = _joined(module.gate_proj, module.up_proj)
        return None if joined is None else _mlp(module, joined)
    if type(module) in _ATTENTIONS and module.config._attn_implementation == PACKED:  # noqa: SLF001
        joined = _joined(module.q_proj, module.k_proj, module.v_proj)
        return None if joined is None else _attention(module, joined)
    return None


def _joined(*branches: nn.Module) -> JoinedLinear | None:
    """Return the one product that computes exactly these branches, if there is one."""
    joined = {branch.joined for branch in branches if isinstance(branch, Branch)}
    layer = joined.pop() if len(joined) == 1 else None
    return layer if layer is not None and layer.branches == list(branches) else None


def _unless_served(plain: Forward, fused: Forward, state: ForwardState) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (plain if state.as_served else fused)(*args, **kwargs)

    return forward


def _norm(module: Any, state: ForwardState) -> Forward:
    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = _RmsNorm.apply(  # type: ignore[no-untyped-call]
            hidden_states, module.weight, module.variance_epsilon, state.dtype
        )
        return normed

    return forward


def _mlp(module: Any, joined: JoinedLinear) -> Forward:
    def forward(x: torch.Tensor) -> Any:
        return module.down_proj(_SwiGlu.apply(joined(x)))  # type: ignore[no-untyped-call]

    return forward


def _attention(module: Any, joined: JoinedLinear) -> Forward:
    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        *,
        segment_lengths: Sequence[int] = (),
        remembered: Remembered | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        cos, sin = (each[0] for each in position_embeddings)
        query, key, value = _Rotated.apply(  # type: ignore[no-untyped-call]
            joined(hidden_states)[0], cos, sin, joined.ends, module.head_dim
        )
        if remembered is None:
            attended = attend(query, key, value, segment_lengths, module.scaling)
        else:
            attended = remembered.attend(module.layer_idx, query, key, value, module.scaling)
        return module.o_proj(attended.flatten(1).unsqueeze(0)), None

    return forward


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension, computed in float32."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype
    ) -> torch.Tensor:
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normed: torch.Tensor = (wide * inverse).mul_(weight).to(dtype)
        return normed

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[Any, ...]:
        x, weight, inverse = ctx.saved_tensors
        wide = x.float()
        inner = outer.float() * weight
        along = torch.linalg.vecdot(inner, wide).unsqueeze(-1)
        factor = along.mul_(inverse.pow(3)).div_(x.shape[-1])
        return inner.mul_(inverse).addcmul_(wide, factor, value=-1).to(x.dtype), None, None, None


class _SwiGlu(torch.autograd.Function):
    """silu(gate) * up of [..., gate and up side by side]."""

    @staticmethod
    def forward(ctx: Any, joined: torch.Tensor) -> torch.Tensor:
        gate, up = joined.chunk(2, -1)
        gated: torch.Tensor = silu(gate)
        ctx.save_for_backward(joined, gated)
        return gated * up

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> torch.Tensor:
        joined, gated = ctx.saved_tensors
        gate, up = joined.chunk(2, -1)
        gradient = torch.empty_like(joined)
        of_gate, of_up = gradient.chunk(2, -1)
        torch.mul(outer, gated, out=of_up)
        torch.ops.aten.silu_backward.grad_input(outer * up, gate, grad_input=of_gate)
        return gradient


class _Rotated(torch.autograd.Function):
    """Queries, keys and values side by side, apart; queries and keys turned by their positions."""

    @staticmethod
    def forward(
        ctx: Any,
        joined: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        ends: list[int],
        head_dim: int,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        ctx.ends, ctx.dtype = ends, joined.dtype
        heads = [end // head_dim for end in ends]
        each = joined.view(len(joined), -1, head_dim)
        turned = _turned(each[:, : heads[2]].to(cos.dtype), cos, sin)
        return turned[:, : heads[1]], turned[:, heads[1] :], each[:, heads[2] :]

    @staticmethod
    def backward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        gradient = torch.empty(len(query), ctx.ends[3], dtype=ctx.dtype, device=query.device)
        for index, outer in enumerate((query, key, value)):
            columns = gradient[:, ctx.ends[index] : ctx.ends[index + 1]]
            inner = outer if index == 2 else _turned(outer, cos, -sin)
            columns.copy_(inner.flatten(1))
        return gradient, None, None, None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate [tokens, heads, head_dim] by the angles of [tokens, head_dim], whose halves agree.

    Passes over whole rows: torch is slow in short strides.
    """
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), -1)
    signed = torch.cat((-sin[:, :half], sin[:, half:]), -1)
    return (x * cos[:, None]).addcmul_(swapped, signed[:, None])

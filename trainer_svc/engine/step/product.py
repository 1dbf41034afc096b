"""The product of a joined layer with every job's low-rank update, and its gradients.

One function instead of torch's graph of each update: the input is kept once for all of them, the
frozen weights ask for no gradient, and each update is added into the base's own output. Jobs of one
shape are one batched product, since for small jobs the number of calls is what costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from trainer_svc.engine.step.dropout import dropout_mask


@dataclass(frozen=True)
class Factors:
    """The matrices of one branch, of several jobs with one layout."""

    a: Sequence[nn.Parameter]
    """Each job's, [rank, in]."""
    b: Sequence[nn.Parameter]
    """Each job's, [out, rank]."""
    scaled_b: torch.Tensor
    """scale * b in the dtype of the computation: [jobs, out, rank]."""


@dataclass(frozen=True)
class LayerUpdate:
    """What several jobs add to a joined layer: scale * B A dropout(x) in each branch they have."""

    branches: Mapping[int, Factors]
    joined_a: torch.Tensor
    """The branches' A below one another, in the computation's dtype: [jobs, sum of ranks, in]."""
    scale: float
    dropout: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Every matrix: by branch all jobs' A, then all their B."""
        return [p for factors in self.branches.values() for p in (*factors.a, *factors.b)]

    @property
    def ranks(self) -> list[int]:
        """Of each branch."""
        return [len(factors.a[0]) for factors in self.branches.values()]


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of the packed sequence, in equal shares of the jobs of `update`."""

    start: int
    stop: int
    update: LayerUpdate
    layer: int
    """Its number; dropout masks differ between layers."""
    keys: torch.Tensor | None
    """[rows] int32, from which dropout masks are drawn; None: no dropout."""

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the part's rows of [rows, width] by job: [jobs, rows of each, width]."""
        jobs = len(self.update.joined_a)
        return tensor[self.start : self.stop].view(jobs, -1, tensor.shape[1])

    def mask(self, width: int) -> torch.Tensor | None:
        """Return what is kept of the input, as `of` does, in bool; None: all of it."""
        if self.keys is None or self.update.dropout == 0.0:
            return None
        kept = dropout_mask(self.keys, self.layer, width, self.update.dropout)
        return kept.view(len(self.update.joined_a), -1, width)

    def low(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return A dropout(x) of every branch, side by side: [jobs, rows of each, sum of ranks]."""
        a = self.update.joined_a.transpose(1, 2)
        if mask is None:
            return torch.bmm(x, a)
        return torch.bmm(x * mask, a).div_(1 - self.update.dropout)

    def by_branch(self, low: torch.Tensor) -> Sequence[torch.Tensor]:
        """Cut the columns of `low`."""
        return torch.split(low, self.update.ranks, -1)


def banked_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    ends: Sequence[int],
    parts: Sequence[Part],
) -> torch.Tensor:
    """Return the branches' outputs side by side: [rows, out], in the dtype of `x`.

    x is [rows, in], weight [out, in] of the same dtype; branch i has the columns from ends[i] to
    ends[i + 1]. Parts do not overlap. Gradients go to x and to every part's matrices.
    """
    matrices = [matrix for part in parts for matrix in part.update.parameters]
    product: torch.Tensor = _Product.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, ends, parts, *matrices
    )
    return product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        ends: Sequence[int],
        parts: Sequence[Part],
        *_: torch.Tensor,
    ) -> torch.Tensor:
        y = linear(x, weight, bias)
        lows = []
        for part in parts:
            low = part.low(part.of(x), part.mask(x.shape[1]))
            into = part.of(y)
            for (branch, factors), each in zip(
                part.update.branches.items(), part.by_branch(low), strict=True
            ):
                columns = into[:, :, ends[branch] : ends[branch + 1]]
                columns.baddbmm_(each, factors.scaled_b.transpose(1, 2))
            # From here on it is read for the gradient of B alone.
            lows.append(low.mul_(part.update.scale))
        ctx.save_for_backward(x, weight, *lows)
        ctx.ends, ctx.parts = ends, parts
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
        x, weight, *lows = ctx.saved_tensors
        dy = dy.contiguous()
        dx = dy @ weight if ctx.needs_input_grad[0] else None
        gradients: list[torch.Tensor] = []
        for part, low in zip(ctx.parts, lows, strict=True):
            gradients += _part_gradients(part, low, x, dy, ctx.ends, dx)
        return (dx, None, None, None, None, *gradients)


def _part_gradients(
    part: Part,
    scaled_low: torch.Tensor,
    x: torch.Tensor,
    dy: torch.Tensor,
    ends: Sequence[int],
    dx: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Return the gradients of the part's matrices, in their order, and add its own to dx."""
    update, rows, outer = part.update, part.of(x), part.of(dy)
    dlows, dbs = [], []
    for (branch, factors), each in zip(
        update.branches.items(), part.by_branch(scaled_low), strict=True
    ):
        columns = outer[:, :, ends[branch] : ends[branch + 1]]
        dlows.append(torch.bmm(columns, factors.scaled_b))
        # The other way round takes oneDNN twice as long in bfloat16.
        db = torch.bmm(each.transpose(1, 2), columns).transpose(1, 2)
        dbs.append(db.to(factors.b[0].dtype, memory_format=torch.contiguous_format))
    dlow = torch.cat(dlows, -1) if len(dlows) > 1 else dlows[0]
    mask = part.mask(x.shape[1])
    if mask is not None:
        dlow.div_(1 - update.dropout)
        rows = rows * mask
    if dx is not None:
        if mask is None:
            part.of(dx).baddbmm_(dlow, update.joined_a)
        else:
            part.of(dx).add_(torch.bmm(dlow, update.joined_a).mul_(mask))
    da = torch.bmm(dlow.transpose(1, 2), rows).to(dbs[0].dtype)
    return [
        gradient
        for of_a, of_b in zip(torch.split(da, update.ranks, 1), dbs, strict=True)
        for gradient in (*of_a.unbind(), *of_b.unbind())
    ]

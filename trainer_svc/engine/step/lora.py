"""The linear layer with a low-rank update, in PEFT's own frame.

PEFT builds, names and saves it; only the forward is ours: one product per low-rank matrix, added
into the base's output in place of three passes over it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch.nn import functional

ADAPTER = "default"
"""PEFT's name of the one adapter; it never reaches a file."""


@dataclass
class ForwardState:
    """What every layer must know of the forward pass that is going on."""

    enabled: bool = True
    """Whether the update is applied."""
    dropout: torch.Generator | None = None
    """Source of dropout masks; None: no dropout."""


class LowRankLinear(PeftLinear):  # type: ignore[misc]
    """y = W x + bias + (alpha / rank) · B A dropout(x)"""

    state: ForwardState

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., in] to [..., out], in the dtype the base gives."""
        base = self.base_layer
        if not self.state.enabled:
            output: torch.Tensor = base(x)
            return output
        a, b = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        rows = x.reshape(-1, x.shape[-1])
        if torch.is_autocast_enabled(rows.device.type):
            rows = rows.to(torch.get_autocast_dtype(rows.device.type))
        result = base(rows)
        low = functional.linear(self._dropped(rows), a.to(rows.dtype))
        scaled = (b * self.scaling[ADAPTER]).to(result.dtype)
        result = torch.addmm(result, low.to(result.dtype), scaled.t())
        return result.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw A as PEFT does (Kaiming uniform, a = sqrt(5)) from `generator`; set B to zero."""
        a, b = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        bound = 1 / math.sqrt(a.shape[1])
        a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=generator))
        b.zero_()

    def _dropped(self, rows: torch.Tensor) -> torch.Tensor:
        share = getattr(self.lora_dropout[ADAPTER], "p", 0.0)
        if self.state.dropout is None or share == 0.0:
            return rows
        drawn = torch.rand(rows.shape, generator=self.state.dropout, device=rows.device)
        return rows * ((drawn >= share) / (1 - share)).to(rows.dtype)

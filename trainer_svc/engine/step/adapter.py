"""One job's low-rank update: its parameters, as PEFT names them, and what the layers read of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from trainer_svc.engine.step.lora import Place
from trainer_svc.engine.step.peft_format import Layout, Matrices
from trainer_svc.engine.step.product import Factors, LayerUpdate


class Adapter:
    """Trained in float32. `seed` alone decides the first weights: A as PEFT draws it, B zero."""

    def __init__(
        self, layout: Layout, places: Mapping[str, Place], *, seed: int, device: torch.device
    ) -> None:
        self.config = layout.config
        self.layout = layout
        # All of A, then all of B, layer by layer: a joined layer's A is one matrix, and few passes
        # make the copy that products read.
        self.matrices = sorted(
            layout.matrices,
            key=lambda m: (places[m.module].layer.number, places[m.module].branch),
        )
        """In the order of `values`."""
        self.places = places
        self.size = sum(math.prod(m.a_shape) + math.prod(m.b_shape) for m in layout.matrices)
        """Parameters trained."""
        self.values = torch.zeros(self.size, device=device)
        """Every parameter's storage, [size]: all of A, then all of B."""
        views = cut(self.values, self.matrices)
        self.parameters: dict[str, nn.Parameter] = {
            name: nn.Parameter(views[name]) for name in sorted(views)
        }
        """By the names PEFT saves them under, sorted."""
        self._further: list[dict[str, nn.Parameter]] = []
        self._initialise(torch.Generator().manual_seed(seed))

    def in_lane(self, number: int) -> Mapping[str, nn.Parameter]:
        """Return the parameters for the lane with that number among those the job is in.

        All have the same values; each lane's gradients are its own until they are gathered, so that
        their sum does not depend on who is ready first.
        """
        if number == 0:
            return self.parameters
        while len(self._further) < number:
            self._further.append(
                {name: nn.Parameter(p.data) for name, p in self.parameters.items()}
            )
        return self._further[number - 1]

    def gather(self) -> None:
        """Add the gradients of all lanes to those of the first, in their order."""
        for lane in self._further:
            for name, parameter in lane.items():
                gradient, parameter.grad = parameter.grad, None
                into = self.parameters[name]
                if gradient is None:
                    continue
                if into.grad is None:
                    into.grad = gradient
                else:
                    into.grad += gradient

    def tensors(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return a copy of the weights as PEFT saves them, on the CPU."""
        return {
            name: parameter.detach().to("cpu", dtype, copy=True).contiguous()
            for name, parameter in self.parameters.items()
        }

    def changes_nothing(self) -> bool:
        """Tell whether every B is zero, as it began."""
        return not any(bool(self.parameters[each.b].any()) for each in self.matrices)

    @torch.no_grad()
    def round_to(self, dtype: torch.dtype) -> None:
        """Replace each weight by what `dtype` keeps of it. Training is over after that."""
        self.values.copy_(self.values.to(dtype))

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for matrices in self.layout.matrices:
            bound = 1 / math.sqrt(matrices.a_shape[1])
            drawn = torch.empty(matrices.a_shape).uniform_(-bound, bound, generator=generator)
            self.parameters[matrices.a].copy_(drawn)


class Stack:
    """Adapters of one layout side by side, as products in `dtype` read them.

    Each comes with the number of the lane, of those that the adapter is in, that this is for:
    gradients go there.
    """

    def __init__(self, members: Sequence[tuple[Adapter, int]], dtype: torch.dtype) -> None:
        adapters = [adapter for adapter, _ in members]
        self._adapters = adapters
        self._parameters = [adapter.in_lane(number) for adapter, number in members]
        first = adapters[0]
        values = first.values
        self._copies = torch.empty(len(adapters), first.size, dtype=dtype, device=values.device)
        self._a_size = sum(math.prod(m.a_shape) for m in first.matrices)
        (self._scale,) = {matrices.scale for matrices in first.matrices}
        self.updates: Mapping[int, LayerUpdate] = self._updates(first)
        """By layer number; of the weights at the last `refresh`."""

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the adapters' weights of this moment."""
        end = self._a_size
        for copy, adapter in zip(self._copies, self._adapters, strict=True):
            copy[:end] = adapter.values[:end]
            copy[end:] = adapter.values[end:] * self._scale

    def _updates(self, first: Adapter) -> Mapping[int, LayerUpdate]:
        copies = cut(self._copies, first.matrices)
        layers: dict[int, list[Matrices]] = {}
        for matrices in first.matrices:
            layers.setdefault(first.places[matrices.module].layer.number, []).append(matrices)
        updates, start = {}, 0
        for number, group in layers.items():
            stop = start + sum(math.prod(m.a_shape) for m in group)
            joined_a = self._copies[:, start:stop].view(len(self._copies), -1, group[0].a_shape[1])
            branches = {first.places[m.module].branch: self._factors(m, copies) for m in group}
            dropout = float(first.config.lora_dropout)
            updates[number] = LayerUpdate(branches, joined_a, self._scale, dropout)
            start = stop
        return updates

    def _factors(self, matrices: Matrices, copies: Mapping[str, torch.Tensor]) -> Factors:
        return Factors(
            [parameters[matrices.a] for parameters in self._parameters],
            [parameters[matrices.b] for parameters in self._parameters],
            copies[matrices.b],
        )


def cut(values: torch.Tensor, order: Sequence[Matrices]) -> dict[str, torch.Tensor]:
    """Return every matrix of [..., size] by its name: views, [..., *shape]."""
    shapes = [(m.a, m.a_shape) for m in order] + [(m.b, m.b_shape) for m in order]
    pieces = torch.split(values, [math.prod(shape) for _, shape in shapes], -1)
    return {
        name: piece.view(*values.shape[:-1], *shape)
        for (name, shape), piece in zip(shapes, pieces, strict=True)
    }

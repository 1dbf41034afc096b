"""Linear layers with many low-rank updates: each row of a packed sequence has its job's own.

A base's linear layers are replaced once; jobs come and go by the spans of a forward pass. Layers
that read the same input (queries, keys and values; gate and up) are computed as one.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn
from torch.nn.functional import linear

from trainer_svc.engine.step.product import LayerUpdate, Part, banked_product
from trainer_svc.engine.targets import adaptable_layers

_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that read one input where they are one module's children."""


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of the packed sequence are, in equal shares, those of some jobs."""

    start: int
    stop: int
    updates: Mapping[int, LayerUpdate]
    """By the layer's number."""
    dropout_keys: torch.Tensor | None
    """[rows] int32; None: no dropout."""

    def within(self, start: int, stop: int) -> Span | None:
        """Return what of it lies in rows `start` to `stop`, counted from there."""
        first, last = max(start, self.start), min(stop, self.stop)
        if first >= last:
            return None
        keys = self.dropout_keys
        if keys is not None:
            keys = keys[first - self.start : last - self.start]
        return Span(first - start, last - start, self.updates, keys)


@dataclass
class Handed:
    """What a joined layer has computed and not all of its branches have asked for."""

    input: torch.Tensor
    outputs: dict[int, torch.Tensor]
    """By branch."""


class ForwardState(threading.local):
    """What every layer must know of the forward pass that is going on in this thread."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        """Products are computed in it."""
        self.spans: Sequence[Span] = ()
        self.as_served = False
        """Compute as serving does: each layer by itself, in the dtype of its weights."""
        self.handed: dict[int, Handed] = {}
        """By the joined layer's number."""


@dataclass(frozen=True)
class Place:
    """Where one of the base's linear layers is computed now."""

    layer: JoinedLinear
    branch: int


class JoinedLinear(nn.Module):
    """Linear layers with one input, in one product; `branches` take their places in the model."""

    def __init__(self, layers: Sequence[nn.Linear], number: int, state: ForwardState) -> None:
        super().__init__()
        self.weight = nn.Parameter(_joined([layer.weight for layer in layers]), False)
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.bias = nn.Parameter(_joined(biases), False) if biases else None
        self.number = number
        self.ends = [0, *accumulate(layer.out_features for layer in layers)]
        self.branches = [Branch(self, index) for index in range(len(layers))]
        self._state = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., in] to [..., sum of the branches' outs], in the dtype of the computation."""
        rows = x.reshape(-1, x.shape[-1]).to(self._state.dtype)
        weight = self.weight.to(rows.dtype)
        bias = None if self.bias is None else self.bias.to(rows.dtype)
        parts = self._parts()
        if parts:
            product = banked_product(rows, weight, bias, self.ends, parts)
        else:
            product = linear(rows, weight, bias)
        return product.view(*x.shape[:-1], -1)

    def output(self, branch: int, x: torch.Tensor) -> torch.Tensor:
        """Map [..., in] to [..., out of the branch].

        The first branch that is asked computes them all; each output is handed over once.
        """
        if self._state.as_served:
            return self._served(branch, x)
        handed = self._state.handed.get(self.number)
        if handed is None or handed.input is not x or branch not in handed.outputs:
            widths = [stop - start for start, stop in zip(self.ends, self.ends[1:], strict=False)]
            handed = Handed(x, dict(enumerate(self(x).split(widths, dim=-1))))
            self._state.handed[self.number] = handed
        result = handed.outputs.pop(branch)
        if not handed.outputs:
            del self._state.handed[self.number]
        return result

    def _served(self, branch: int, x: torch.Tensor) -> torch.Tensor:
        columns = slice(self.ends[branch], self.ends[branch + 1])
        bias = None if self.bias is None else self.bias[columns]
        result = linear(x, self.weight[columns], bias)
        for part in self._parts():
            branches = part.update.branches
            if branch in branches:
                rows = part.of(x.reshape(-1, x.shape[-1]))
                low = part.by_branch(part.low(rows, None))[list(branches).index(branch)]
                into = part.of(result.view(-1, result.shape[-1]))
                into.baddbmm_(low, branches[branch].scaled_b.transpose(1, 2))
        return result

    def _parts(self) -> list[Part]:
        return [
            Part(span.start, span.stop, update, self.number, span.dropout_keys)
            for span in self._state.spans
            if (update := span.updates.get(self.number)) is not None
        ]


class Branch(nn.Module):
    """Stands where one of the joined layers stood."""

    def __init__(self, joined: JoinedLinear, index: int) -> None:
        super().__init__()
        # Its weights are the first branch's own, so that the model holds them once.
        if index == 0:
            self.joined = joined
        else:
            object.__setattr__(self, "joined", joined)
        self._index = index

    @property
    def weight(self) -> torch.Tensor:
        """[out, in], of the frozen layer; some models ask for its dtype."""
        start, stop = self.joined.ends[self._index : self._index + 2]
        return self.joined.weight[start:stop]

    @property
    def bias(self) -> torch.Tensor | None:
        """[out], of the frozen layer."""
        start, stop = self.joined.ends[self._index : self._index + 2]
        return None if self.joined.bias is None else self.joined.bias[start:stop]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See JoinedLinear.output."""
        return self.joined.output(self._index, x)


def put_on(model: nn.Module, decoder: nn.Module, state: ForwardState) -> dict[str, Place]:
    """Replace each layer of `decoder` that adapters may change.

    Returns where each is computed now, by its name in `model`. Raises ValueError for a model whose
    layers are replaced already.
    """
    if any(isinstance(module, JoinedLinear) for module in decoder.modules()):
        raise ValueError("another bank holds this base")
    adaptable = {id(module) for module in adaptable_layers(decoder).values()}
    places: dict[str, Place] = {}
    number = 0
    for name, parent in list(model.named_modules()):
        for names in _groups(parent, adaptable):
            layer = JoinedLinear([getattr(parent, child) for child in names], number, state)
            number += 1
            for index, child in enumerate(names):
                setattr(parent, child, layer.branches[index])
                places[f"{name}.{child}" if name else child] = Place(layer, index)
    return places


def _groups(parent: nn.Module, adaptable: Collection[int]) -> Iterator[Sequence[str]]:
    """Yield the names of the linear layers right below `parent`, those with one input together."""
    left = {name: child for name, child in parent.named_children() if id(child) in adaptable}
    for siblings in _SIBLINGS:
        layers = [left[name] for name in siblings if name in left]
        alike = {(layer.in_features, layer.bias is None, layer.weight.dtype) for layer in layers}
        if len(layers) == len(siblings) and len(alike) == 1:
            for name in siblings:
                del left[name]
            yield siblings
    for name in left:
        yield (name,)


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0].detach() if len(tensors) == 1 else torch.cat(list(tensors))

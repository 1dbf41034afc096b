"""The bank's contract on a toy model, one job after another in plain torch, with faults on demand.

What one job computes does not depend on the others, bit for bit. `crossing` makes NaN cross from
one job into all, forward and backward, as attention masks let it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy, silu

from tests.unit.trainer_svc.engine.tiny import examples
from trainer_svc.engine.data.hyperparameters import resolve
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import Dropout, Share, StepLoss
from trainer_svc.engine.step.run import Run
from trainer_svc.engine.training.group import Group
from trainer_svc.jobs.model import Hyperparameters, LoraSpec

WIDTH, VOCABULARY, LAYERS, RANK = 16, 300, 2, 4
Fault = Literal["loss", "gradient", "error"]


class _Crossing(torch.autograd.Function):
    """Leaves every tensor as it is, unless one holds NaN: then all do. So with gradients."""

    @staticmethod
    def forward(_: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _crossed(tensors)

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _crossed(gradients)


def _crossed(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    poison = torch.stack([tensor.sum() for tensor in tensors]).sum() * 0
    if bool(poison.isnan()):
        return tuple(tensor + poison for tensor in tensors)
    return tuple(tensor.clone() for tensor in tensors)


class ReferenceBank:
    def __init__(self, *, crossing: bool = False, dropout: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self._embedding = torch.randn(VOCABULARY, WIDTH, generator=generator)
        self._layers = torch.randn(LAYERS, WIDTH, WIDTH, generator=generator) / WIDTH**0.5
        self._crossing = crossing
        self._dropout = dropout
        self._adapters: dict[str, Any] = {}
        self.faults: dict[tuple[str, int], Fault] = {}
        """What goes wrong with a job's records of a step."""
        self.memory: int | None = None
        """Tokens that a pass may have; more raise `no_memory`, in the forward or the backward."""
        self.no_memory: Exception = torch.OutOfMemoryError("out of memory")
        self.fails_backward = False
        self.passes: list[dict[str, list[int]]] = []
        """The record lengths of each job, of every pass with gradients that was asked for."""
        self.evaluated: list[str] = []
        """The job of each pass without gradients."""

    def attach(self, job: str, seed: int = 0) -> Any:
        """Make an adapter, A random and B zero; the parameters are views of one tensor."""
        generator = torch.Generator().manual_seed(seed)
        low = torch.randn(LAYERS, RANK, WIDTH, generator=generator) / WIDTH**0.5
        flat = torch.cat([low.flatten(), torch.zeros(low.numel())])
        shapes = [(f"{layer}.a", (RANK, WIDTH)) for layer in range(LAYERS)]
        shapes += [(f"{layer}.b", (WIDTH, RANK)) for layer in range(LAYERS)]
        parameters = {
            name: nn.Parameter(piece.view(shape))
            for (name, shape), piece in zip(shapes, torch.split(flat, RANK * WIDTH), strict=True)
        }
        self._adapters[job] = SimpleNamespace(parameters=dict(sorted(parameters.items())))
        return self._adapters[job]

    def forward(self, shares: Mapping[str, Share]) -> dict[str, StepLoss]:
        lengths = {
            job: [len(example.token_ids) for example in share.examples]
            for job, share in shares.items()
        }
        if torch.is_grad_enabled():
            self.passes.append(lengths)
        else:
            self.evaluated += shares
        full = self.memory is not None and sum(map(sum, lengths.values())) > self.memory
        if full and not self.fails_backward:
            raise self.no_memory
        hidden = {
            job: [self._embedding[example.token_ids] for example in share.examples]
            for job, share in shares.items()
        }
        for layer in range(LAYERS):
            for job, share in shares.items():
                hidden[job] = [
                    self._layer(job, layer, states, share.dropout, index)
                    for index, states in enumerate(hidden[job])
                ]
            if layer == 0 and full:
                _on_gradient(next(iter(hidden.values()))[0], self._no_memory)
            for (job, step), fault in self.faults.items():
                dropout = shares[job].dropout if job in shares else None
                if layer == 1 and dropout is not None and dropout.step == step:
                    hidden[job] = [_broken(states, fault) for states in hidden[job]]
            if self._crossing:
                every = [one for each in hidden.values() for one in each]
                flat = iter(_Crossing.apply(*every))  # type: ignore[no-untyped-call]
                hidden = {job: [next(flat) for _ in each] for job, each in hidden.items()}
        return {job: self._loss(share.examples, hidden[job]) for job, share in shares.items()}

    def _layer(
        self, job: str, layer: int, states: torch.Tensor, dropout: Dropout | None, index: int
    ) -> torch.Tensor:
        parameters = self._adapters[job].parameters
        a, b = parameters[f"{layer}.a"], parameters[f"{layer}.b"]
        dropped = states
        if dropout is not None and self._dropout:
            seed = hash((dropout.seed, dropout.step, dropout.records[index], layer)) & (2**62 - 1)
            drawn = torch.rand(states.shape, generator=torch.Generator().manual_seed(seed))
            dropped = states * (drawn >= self._dropout) / (1 - self._dropout)
        before = states.cumsum(0) / torch.arange(1, len(states) + 1)[:, None]
        return silu(before @ self._layers[layer].T + 6 * (dropped @ a.T) @ b.T)

    def _loss(self, batch: Sequence[Example], hidden: Sequence[torch.Tensor]) -> StepLoss:
        total, trained, tokens = torch.zeros(()), 0, 0
        for example, states in zip(batch, hidden, strict=True):
            at = example.trained.nonzero().squeeze(1)
            logits = states[at - 1] @ self._embedding.T
            total = total + cross_entropy(logits, example.token_ids[at], reduction="sum")
            trained += len(at)
            tokens += len(example.token_ids)
        return StepLoss(total, trained, tokens)

    def _no_memory(self, _: torch.Tensor) -> None:
        raise self.no_memory


def _broken(states: torch.Tensor, fault: Fault) -> torch.Tensor:
    if fault == "error":
        raise IndexError("a token id that the base does not have")
    if fault == "loss":
        return states * float("nan")
    states = states * 1
    _on_gradient(states, lambda gradient: gradient * float("nan"))
    return states


def _on_gradient(states: torch.Tensor, hook: Callable[[torch.Tensor], Any]) -> None:
    states.register_hook(hook)  # type: ignore[no-untyped-call]


def make_run(
    bank: ReferenceBank,
    job: str,
    *,
    seed: int = 0,
    records: int = 12,
    longest: int = 24,
    validation: int = 0,
    **asked: Any,
) -> Run:
    """A run of two epochs of three steps or so, unless `asked` says otherwise."""
    training = examples(records, seed=seed, longest=longest)
    choice = resolve(
        Hyperparameters(
            **{"epochs": 2, "batch_tokens": 64, "learning_rate": 1e-2, "seed": seed, **asked}
        ),
        [len(example.token_ids) for example in training],
        lora=LoraSpec(rank=RANK, alpha=2.0 * RANK),
        hidden_size=WIDTH,
        context=4096,
    )
    held = examples(validation, seed=seed + 100)
    return Run(job, bank.attach(job, seed), choice.hyperparameters, choice.plan, training, held)


def weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.adapter.parameters.values()])


def finish(group: Group, runs: Sequence[Run], most_passes: int = 10_000) -> dict[str, Exception]:
    """Step until every run is done or has left; return why those who left did."""
    left: dict[str, Exception] = {}
    for _ in range(most_passes):
        active = {run.job: run for run in runs if not run.done and run.job not in left}
        if not active:
            return left
        for job, outcome in group.step(active).items():
            if isinstance(outcome, Exception):
                left[job] = outcome
                group.left(job)
    raise AssertionError("the runs do not end")

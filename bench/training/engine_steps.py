"""Steps of our engine: every job's records through the base in one run, then each job's own step.

Imports torch and the engine's core only, so that it runs on any machine with a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from bench.training.sizes import Lora
from bench.training.workload import Record, Workload
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import Adapter, AdapterBank, Share
from trainer_svc.engine.step.optimizer import Optimizer

_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class _Job:
    name: str
    steps: Sequence[Sequence[Example]]
    adapter: Adapter
    optimizer: Optimizer


class EngineSteps:
    """Jobs on one bank. `micro_tokens`: most tokens of one run of the base."""

    def __init__(
        self, bank: AdapterBank, workload: Workload, lora: Lora, micro_tokens: int = 2**20
    ) -> None:
        self._bank = bank
        self._micro_tokens = micro_tokens
        self._done = 0
        self._jobs = [
            self._attached(name, steps, lora, seed)
            for seed, (name, steps) in enumerate(workload.items())
        ]

    def run(self, steps: int) -> int:
        """Take `steps` steps of every job; return the tokens read."""
        return sum(self._step() for _ in range(steps))

    def tensors(self, job: str) -> dict[str, torch.Tensor]:
        """Return a copy of the job's weights, by the names PEFT saves them under."""
        (found,) = (each for each in self._jobs if each.name == job)
        return found.adapter.tensors(torch.float32)

    def close(self) -> None:
        """Take the jobs off the bank."""
        for job in self._jobs:
            self._bank.detach(job.name)

    def _step(self) -> int:
        batches = {job.name: job.steps[self._done % len(job.steps)] for job in self._jobs}
        trained = {
            name: sum(int(example.trained.sum()) for example in examples)
            for name, examples in batches.items()
        }
        tokens = 0
        for micro in _micro_batches(batches, self._micro_tokens):
            losses = self._bank.forward(micro)
            torch.stack(
                [loss.total / trained[name] for name, loss in losses.items()]
            ).sum().backward()  # type: ignore[no-untyped-call]
            tokens += sum(loss.tokens for loss in losses.values())
        for job in self._jobs:
            norm = job.optimizer.norm()
            job.optimizer.step(_LEARNING_RATE, norm, skip=torch.zeros_like(norm))
            job.optimizer.clear()
        self._done += 1
        return tokens

    def _attached(
        self, name: str, steps: Sequence[Sequence[Record]], lora: Lora, seed: int
    ) -> _Job:
        adapter = self._bank.attach(name, lora, seed=seed)
        optimizer = Optimizer(adapter.parameters, weight_decay=0.0)
        return _Job(name, [_examples(step) for step in steps], adapter, optimizer)


def _micro_batches(
    batches: Mapping[str, Sequence[Example]], most_tokens: int
) -> Iterator[dict[str, Share]]:
    """Deal the jobs' records out, one of each in turn, into runs of at most `most_tokens`."""
    longest = max(map(len, batches.values()))
    dealt = [
        (name, examples[place])
        for place in range(longest)
        for name, examples in batches.items()
        if place < len(examples)
    ]
    micro: dict[str, list[Example]] = {}
    tokens = 0
    for name, example in dealt:
        if micro and tokens + len(example.token_ids) > most_tokens:
            yield {job: Share(taken) for job, taken in micro.items()}
            micro, tokens = {}, 0
        micro.setdefault(name, []).append(example)
        tokens += len(example.token_ids)
    yield {job: Share(taken) for job, taken in micro.items()}


def _examples(step: Sequence[Record]) -> list[Example]:
    return [
        Example(
            line,
            torch.tensor(record.token_ids, dtype=torch.int64),
            torch.tensor(record.trained, dtype=torch.bool),
        )
        for line, record in enumerate(step, start=1)
    ]

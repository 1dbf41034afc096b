"""A run on the tiny base."""

from __future__ import annotations

from tests.unit.trainer_svc.engine.tiny import examples
from trainer_svc.engine.data.hyperparameters import resolve
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run, StepResult
from trainer_svc.engine.training.group import Group
from trainer_svc.jobs.model import Hyperparameters, LoraSpec

JOB = "tenants/acme/jobs/one"


def make_run(bank: AdapterBank, epochs: int = 8, dropout: float = 0.0) -> Run:
    adapter = bank.attach(JOB, LoraSpec(rank=8, alpha=16.0, dropout=dropout), seed=0)
    training = examples(12)
    asked = Hyperparameters(epochs=epochs, batch_tokens=64, learning_rate=1e-2)
    lora = LoraSpec(rank=8, alpha=16.0)
    lengths = [len(e.token_ids) for e in training]
    choice = resolve(asked, lengths, lora=lora, hidden_size=32, context=256)
    return Run(JOB, adapter, choice.hyperparameters, choice.plan, training, [])


def step(bank: AdapterBank, run: Run, micro_tokens: int = 8192) -> StepResult:
    """Take one optimizer step, in as many forward passes as it needs."""
    group = Group(bank, micro_tokens)
    while not (outcomes := group.step({run.job: run})):
        pass
    (outcome,) = outcomes.values()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome

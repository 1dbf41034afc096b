"""A run on the tiny base."""

from __future__ import annotations

from tests.unit.trainer_svc.engine.tiny import examples
from trainer_svc.engine.data.hyperparameters import resolve
from trainer_svc.engine.step.bank import AdapterBank, StepLoss
from trainer_svc.engine.step.run import Run
from trainer_svc.jobs.model import Hyperparameters, LoraSpec

JOB = "tenants/acme/jobs/one"


def make_run(bank: AdapterBank, epochs: int = 8) -> Run:
    adapter = bank.attach(JOB, LoraSpec(rank=8, alpha=16.0), seed=0)
    training = examples(12)
    asked = Hyperparameters(epochs=epochs, batch_tokens=64, learning_rate=1e-2)
    chosen, plan = resolve(asked, [len(e.token_ids) for e in training], hidden_size=32, context=256)
    return Run(JOB, adapter, chosen, plan, training, [])


def step(bank: AdapterBank, run: Run) -> StepLoss:
    return bank.forward({JOB: run.next_batch()}, dropout_seeds={})[JOB]

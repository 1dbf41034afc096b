"""The trained adapter as it is published: rounded first, then judged.

What is reported and what serving replays are figures of the weights that are published, not of
those that were trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig

from tailorbird.errors import FailedPrecondition
from tailorbird.manifest import EvaluationSummary, Probes, RenderedChat
from trainer_svc.engine.result.certificate import choose_candidates, make_probes
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run
from trainer_svc.engine.training.evaluation import evaluation
from trainer_svc.jobs.events import Evaluation, EventPayload, JobWarning


@dataclass(frozen=True)
class Judged:
    """An adapter that needs the device no more."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    """On the CPU, in the number format in which they are published."""
    probes: Probes
    evaluation: EvaluationSummary


def judge(
    bank: AdapterBank,
    run: Run,
    micro_tokens: int,
    report: Callable[[EventPayload], None],
    chats: Sequence[RenderedChat] = (),
) -> Generator[None, None, Judged]:
    """Round the run's adapter, then compute its validation loss and its probes, in pieces.

    `chats` go into the certificate as they are. Training is over after that. Raises
    FailedPrecondition: NON_FINITE if no step was ever taken, or if the validation loss is not
    finite; NO_EFFECT if the adapter changes nothing.
    """
    training_loss = run.state.training_loss
    if training_loss is None:
        raise FailedPrecondition(
            "no step had a finite loss and gradient; try a lower learning rate", reason="NON_FINITE"
        )
    dtype = torch.bfloat16 if bank.base.dtype == torch.bfloat16 else torch.float32
    run.adapter.round_to(dtype)
    _check_effect(run)
    yield
    loss: float | None = None
    if run.validation:
        loss = yield from evaluation(bank, run.job, run.validation, micro_tokens)
        report(_told(run.best.step if run.best else run.state.step, loss))
        before = run.state.base_validation_loss
        if before is not None and loss > before:
            report(_worse_than_base(loss, before))
    candidates = choose_candidates(run.validation, run.training, run.hyperparameters.seed or 0)
    probes = yield from make_probes(bank, run.job, candidates, chats)
    return Judged(
        config=run.adapter.config,
        tensors=run.adapter.tensors(dtype),
        probes=probes,
        evaluation=EvaluationSummary(
            steps=run.state.step,
            training_loss=training_loss,
            validation_loss=loss,
            base_validation_loss=run.state.base_validation_loss,
        ),
    )


def _check_effect(run: Run) -> None:
    """Refuse an adapter that would be the base under a customer's name."""
    if run.adapter.changes_nothing():
        raise FailedPrecondition(
            "the adapter changes nothing: its weights, as they would be published, are all zero; "
            "raise the learning rate or lora.alpha",
            reason="NO_EFFECT",
        )


def _worse_than_base(loss: float, base: float) -> JobWarning:
    return JobWarning(
        reason="WORSE_THAN_BASE",
        message=f"the validation loss of the adapter, {loss:.4g}, is above the base's, {base:.4g}: "
        "try a lower learning rate, or look at the data",
    )


def _told(step: int, loss: float) -> Evaluation:
    if not math.isfinite(loss):
        raise FailedPrecondition(
            f"the validation loss of the adapter as it would be published is {loss}",
            reason="NON_FINITE",
            step=step,
        )
    return Evaluation(step=step, validation_loss=loss, perplexity=math.exp(min(loss, 700.0)))

"""A sweep's best trial is examined like a job of its own, by the same rules."""

from __future__ import annotations

import pytest

from tests.unit.trainer_svc.engine.judging.examined import SHORT
from tests.unit.trainer_svc.engine.judging.examined import uploaded as reported
from tests.unit.trainer_svc.engine.sweep.test_sweeping import (
    attached,
    of,
    results,
    start,
    sweep_of,
    working,
)
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.jobs.events import Judged, Prepared, StepProgress
from trainer_svc.judgement.model import EvaluationSpec
from trainer_svc.protocol import Failed

__all__ = ["working"]


@pytest.mark.parametrize("at_once", [8, 1])
async def test_the_best_trial_is_examined_and_told_of(working: Working, at_once: int) -> None:
    job = await start(
        working,
        "sweep",
        sweep_of((1e-6, 1e-3, 3e-3), at_once=at_once),
        hold_out=True,
        validation_fraction=None,
        evaluation=EvaluationSpec(),
    )
    done, report = await reported(working, job)
    (judged,) = of(working, job, Judged)
    assert [each.candidate for each in judged.judgement.candidates] == ["tuned", "base", "few_shot"]
    assert report.judgement is not None
    assert report.judgement.model_copy(update={"samples": ()}) == judged.judgement
    decision = done.manifest.evaluation.decision
    assert decision is not None
    assert decision.promote == judged.judgement.decision.promote
    (best,) = results(working, job).active
    assert job.sweep is not None
    trial = job.sweep.spec.trials[best]
    assert (report.lora.rank, report.hyperparameters.learning_rate) == (
        trial.rank,
        trial.learning_rate,
    )
    # The curve is the whole way of the one trial, also where it left the base in between.
    steps = done.manifest.evaluation.steps
    assert [step for step, _, _ in report.training_curve] == list(range(1, steps + 1))
    assert report.validation_curve[0][0] == 0
    assert not await attached(working)


async def test_what_cannot_be_judged_fails_before_a_trial_is_trained(working: Working) -> None:
    job = await start(
        working,
        "sweep",
        sweep_of(),
        hold_out=True,
        validation_fraction=None,
        hyperparameters=SHORT,
        evaluation=EvaluationSpec(primary_metric="label_accuracy"),
    )
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == ("METRIC_NOT_APPLICABLE", False)
    assert not of(working, job, StepProgress)
    assert not of(working, job, Prepared)
    assert not await attached(working)

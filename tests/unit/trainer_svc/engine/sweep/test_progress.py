"""What is told of a sweep's steps: those of all trials, and how fast they are taken now."""

from __future__ import annotations

from typing import Any

import pytest

from trainer_svc.engine.sweep.progress import SweepProgress
from trainer_svc.jobs.events import StepProgress


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def step(number: int, **changes: Any) -> StepProgress:
    return StepProgress(
        **{
            "step": number, "total_steps": 10, "epoch": 0.5, "loss": 1.0, "learning_rate": 0.1,
            "gradient_norm": 1.0, "tokens": 100 * number, "tokens_per_second": 1.0,
            "eta_seconds": 1.0, **changes,
        }
    )  # fmt: skip


def told(progress: SweepProgress, trial: int, number: int) -> StepProgress:
    event = progress.after(trial, step(number))
    assert event is not None
    return event


def test_the_steps_of_all_trials_are_told_once_in_an_interval(clock: Clock) -> None:
    progress = SweepProgress({0: 4}, 20, 1.0)
    assert told(progress, 1, 1).step == 5
    assert progress.after(1, step(2)) is None
    clock.now = 2.0
    event = told(progress, 2, 4)
    assert (event.step, event.total_steps) == (10, 20)
    assert event.eta_seconds == pytest.approx((20 - 10) * 2 / 5)
    assert event.tokens_per_second == pytest.approx((200 + 400 - 100) / 2)


def test_the_last_step_is_told_at_once_and_more_are_than_were_planned(clock: Clock) -> None:
    progress = SweepProgress({}, 3, 1.0)
    told(progress, 0, 1)
    assert progress.after(0, step(2)) is None
    assert told(progress, 0, 3).total_steps == 3
    assert told(progress, 0, 4).total_steps == 4


def test_what_was_taken_under_an_earlier_lease_is_no_speed(clock: Clock) -> None:
    progress = SweepProgress({0: 4}, 20, 1.0)
    progress.begins(0, 6, 600)
    progress.begins(1, 0, 0)
    clock.now = 1.0
    event = told(progress, 0, 7)
    assert event.step == 7
    assert event.tokens_per_second == pytest.approx(100)
    assert event.eta_seconds == pytest.approx(13)


def test_a_trial_that_is_trained_again_is_as_fast_as_it_is(clock: Clock) -> None:
    progress = SweepProgress({}, 20, 1.0)
    told(progress, 0, 5)
    progress.begins(0, 0, 0)
    clock.now = 2.0
    event = told(progress, 0, 2)
    assert event.step == 2
    assert event.tokens_per_second == pytest.approx(100)
    assert event.eta_seconds == pytest.approx(18)

"""Pieces of judging get their share of the step thread's time, and no more while others step."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import pytest

from tests.unit.trainer_svc.engine.reference import ReferenceBank, make_run
from tests.unit.trainer_svc.engine.test_loop import ONE, TWO, WAIT, Heard
from trainer_svc.engine.loop import StepThread
from trainer_svc.engine.step.bank import Share, StepLoss
from trainer_svc.engine.training.member import Ending

PASS = "pass"


class TimedBank(ReferenceBank):
    """A pass takes a second; what happened is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now

    def forward(self, shares: Mapping[str, Share]) -> dict[str, StepLoss]:
        self.now += 1.0
        self.log.append(PASS)
        return super().forward(shares)

    def judging(
        self, name: str, pieces: int, seconds: float = 1.0
    ) -> Generator[None, None, list[str]]:
        for _ in range(pieces):
            self.now += seconds
            self.log.append(name)
            yield
        return self.log


@pytest.fixture
def bank() -> TimedBank:
    return TimedBank()


def passes_between(log: list[str]) -> list[int]:
    """Return how many passes came between one piece and the next."""
    counts: list[int] = []
    for entry in log:
        if entry != PASS:
            counts.append(0)
        elif counts:
            counts[-1] += 1
    return counts[:-1]


@pytest.mark.parametrize(("seconds", "passes"), [(1.0, 3), (4.0, 12)])
def test_judged_work_has_a_quarter_of_the_time_while_others_step(
    bank: TimedBank, seconds: float, passes: int
) -> None:
    steps = StepThread(bank, progress_interval=0, clock=bank.clock)
    ended = steps.join(Heard(make_run(bank, ONE, epochs=4000)).member)
    log = list(steps.pieces(bank.judging("one", 6, seconds)).result(WAIT))
    steps.interrupt(ONE, Ending.CANCELLED)
    ended.result(WAIT)
    steps.close()
    assert passes_between(log) == [passes] * 5


def test_those_who_are_judged_take_turns(bank: TimedBank) -> None:
    steps = StepThread(bank, progress_interval=0, clock=bank.clock)
    ended = steps.join(Heard(make_run(bank, ONE, epochs=4000)).member)
    # Asked for in one call, so that both wait at the same boundary.
    asked = steps.call(
        lambda: (steps.pieces(bank.judging("one", 4)), steps.pieces(bank.judging("two", 4)))
    )
    first, second = asked.result(WAIT)
    first.result(WAIT)
    second.result(WAIT)
    steps.interrupt(ONE, Ending.CANCELLED)
    ended.result(WAIT)
    steps.close()
    assert [entry for entry in bank.log if entry != PASS] == ["one", "two"] * 4
    assert set(passes_between(bank.log)) == {3}


def test_judged_work_has_all_of_the_time_when_nobody_steps(bank: TimedBank) -> None:
    steps = StepThread(bank, progress_interval=0, clock=bank.clock)
    assert steps.pieces(bank.judging("one", 6, 50.0)).result(WAIT) == ["one"] * 6
    steps.close()


def test_a_validation_loss_within_training_waits_for_no_share(bank: TimedBank) -> None:
    """Its passes are training's: they pay for the pieces of the others."""
    steps = StepThread(bank, micro_tokens=40, progress_interval=0, clock=bank.clock)
    run = make_run(bank, TWO, validation=400)
    ended = steps.join(Heard(run).member)
    log = list(steps.pieces(bank.judging("one", 6)).result(WAIT))
    steps.interrupt(TWO, Ending.CANCELLED)
    ended.result(WAIT)
    steps.close()
    assert run.state.step == 0
    assert passes_between(log) == [3] * 5
    assert len(bank.evaluated) >= 15

"""Judging pays for its time with a wait, measured by a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.engine.training.device_share import DeviceShare


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def judge(share: DeviceShare, clock: Clock, seconds: float) -> None:
    with share.judging():
        clock.now += seconds


def train(share: DeviceShare, clock: Clock, seconds: float) -> None:
    with share.training():
        clock.now += seconds


def test_a_piece_is_paid_for_by_training(clock: Clock) -> None:
    share = DeviceShare(0.25, clock)
    assert share.due(training=True)
    judge(share, clock, 2.0)
    for _ in range(3):
        assert not share.due(training=True)
        train(share, clock, 2.0)
    assert share.due(training=True)


def test_time_that_is_nobodys_pays_for_nothing(clock: Clock) -> None:
    share = DeviceShare(0.25, clock)
    judge(share, clock, 1.0)
    clock.now += 1000.0
    assert not share.due(training=True)


def test_nothing_is_saved_up(clock: Clock) -> None:
    share = DeviceShare(0.5, clock)
    train(share, clock, 1000.0)
    judge(share, clock, 1.0)
    assert not share.due(training=True)


def test_nobody_waits_for_training_that_is_not_there(clock: Clock) -> None:
    share = DeviceShare(0.25, clock)
    judge(share, clock, 1000.0)
    assert share.due(training=False)
    assert share.due(training=True)


def test_a_piece_that_fails_is_paid_for(clock: Clock) -> None:
    share = DeviceShare(0.25, clock)
    with pytest.raises(KeyError), share.judging():
        clock.now += 1.0
        raise KeyError
    assert not share.due(training=True)
    with pytest.raises(KeyError), share.training():
        clock.now += 3.0
        raise KeyError
    assert share.due(training=True)


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.1])
def test_a_share_is_a_share(wrong: float) -> None:
    with pytest.raises(ValueError, match="share"):
        DeviceShare(wrong)


@given(
    st.sampled_from([0.125, 0.25, 0.5, 1.0]),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=5, max_size=60),
)
def test_judging_never_has_more_than_its_share_and_a_piece(
    most: float, boundaries: list[tuple[int, int]]
) -> None:
    clock = Clock()
    share = DeviceShare(most, clock)
    judged = trained = 0
    for piece, step in boundaries:
        if share.due(training=True):
            judge(share, clock, piece)
            judged += piece
        train(share, clock, step)
        trained += step
        assert judged - 9 <= most * (judged + trained)

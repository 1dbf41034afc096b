"""Intervals: what is certain, what is degenerate, and how often the truth lies within."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_svc.judgement import bootstrap
from trainer_svc.judgement.bootstrap import FloatArray, intervals, paired
from trainer_svc.judgement.model import Interval
from trainer_svc.judgement.scoring import Scores

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def scores(values: list[float] | FloatArray) -> Scores:
    return Scores(np.asarray(values, dtype=np.float64))


def interval(values: list[float] | FloatArray, seed: int = 0) -> Interval:
    return intervals([scores(values)], len(values), seed=seed)[0]


@settings(deadline=None)
@given(VALUES)
def test_the_mean_lies_in_its_interval_within_the_values(values: list[float]) -> None:
    found = interval(values)
    assert found.value == pytest.approx(np.mean(values), abs=1e-6)
    assert 0 <= found.low <= found.value <= found.high <= 1


@settings(deadline=None)
@given(VALUES)
def test_a_pair_is_turned_around_with_its_sign(values: list[float]) -> None:
    first, second = scores(values), scores(values[::-1])
    there = paired(first, second, len(values), seed=1)
    back = paired(second, first, len(values), seed=1)
    assert there.value == -back.value
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=2e-6)


def test_what_is_all_the_same_has_no_width() -> None:
    assert interval([0.7] * 12) == Interval(value=0.7, low=0.7, high=0.7)
    same = scores([0.1, 0.9, 0.4] * 5)
    assert paired(same, same, 15, seed=0) == Interval(value=0, low=0, high=0)


def test_one_record_or_none_says_nothing() -> None:
    assert interval([1.0]) == Interval(value=1, low=0, high=1)
    assert interval([]) == Interval(value=0, low=0, high=1)
    assert paired(scores([1]), scores([0]), 1, seed=0) == Interval(value=1, low=-1, high=1)


def test_the_seed_decides() -> None:
    values = list(np.random.default_rng(0).random(40))
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_many_records_are_drawn_in_blocks_of_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "_BLOCK_NUMBERS", 1000)
    seen = []

    def watched(weights: FloatArray) -> FloatArray:
        seen.append(weights.shape)
        assert (weights.sum(axis=1) == weights.shape[1]).all()
        return weights[:, 0]

    intervals([watched], 300, seed=0)
    assert {shape for shape in seen if shape != (1, 300)} == {(3, 300), (2, 300)}
    assert sum(shape[0] for shape in seen[1:]) == bootstrap.RESAMPLES


@pytest.mark.parametrize(("chance", "records"), [(0.5, 40), (0.8, 100)])
def test_the_truth_lies_in_about_95_of_100_intervals(
    chance: float, records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    generator = np.random.default_rng(7)
    within = 0
    for trial in range(300):
        found = interval((generator.random(records) < chance).astype(np.float64), seed=trial)
        within += found.low <= chance <= found.high
    assert 0.89 <= within / 300 <= 0.99


def test_a_paired_interval_is_narrower_than_one_of_strangers() -> None:
    generator = np.random.default_rng(1)
    hard = generator.random(100)
    first, second = scores(hard * 0.9 + 0.1), scores(hard * 0.9)
    found = paired(first, second, 100, seed=0)
    assert found.low > 0.09
    assert interval(hard * 0.9).high - interval(hard * 0.9).low > 0.05


def test_macro_f1_is_made_again_for_every_draw() -> None:
    expected = np.array([0] * 15 + [1] * 5)
    answered = np.zeros(20, dtype=np.int64)
    wrong = Scores((expected == answered).astype(np.float64), (expected, answered))
    found = intervals([wrong], 20, seed=0)[0]
    # Class 0: 2 * 15 / 35; class 1: none. Draws without class 1 reach 1, its accuracy never would.
    assert found.value == pytest.approx(15 / 35, abs=1e-6)
    assert found.low < found.value < found.high < 0.6
    assert wrong.taken([0, 1]).figure == 1

"""Which settings are tried, where they are compared, and which go on."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import InvalidArgument
from trainer_svc.jobs.sweep import (
    HALVED,
    MOST_TRIALS,
    AskedSweep,
    LogRange,
    Rung,
    RungDecided,
    SearchSpace,
    SweepResults,
    SweepSpec,
    TrialReached,
    TrialSpec,
    better,
    planned_steps,
    rungs,
    settings,
)


def asked(**fields: Any) -> AskedSweep:
    space = {key: fields.pop(key) for key in list(fields) if key in SearchSpace.model_fields}
    return AskedSweep(space=SearchSpace(**space), **fields)


def begun(trials: int) -> SweepResults:
    spec = SweepSpec(asked=asked(ranks=(8,)), trials=(TrialSpec(rank=8, alpha=16),) * trials)
    return SweepResults.begun(spec)


def reached(trial: int, loss: float | None, rung: int = 0, **changes: Any) -> TrialReached:
    fields: dict[str, Any] = {
        "trial": trial,
        "rung": rung,
        "step": 10 * (rung + 1),
        "total_steps": 80,
        "learning_rate": 1e-3,
        "epochs": 2,
        "validation_loss": loss,
        "reason": "" if loss is not None else "NON_FINITE",
        **changes,
    }
    return TrialReached(**fields)


def test_a_grid_is_every_combination_once() -> None:
    found = settings(asked(ranks=(8, 16), learning_rates=(1e-4, 1e-3), epochs=(1, 2)))
    assert len(found) == 8
    assert len({(each.rank, each.learning_rate, each.epochs) for each in found}) == 8
    assert {each.alpha for each in found} == {None}


def test_a_draw_is_a_function_of_its_seed() -> None:
    space = {"ranks": (8, 16, 32), "learning_rates": (1e-4, 1e-3, 1e-2), "epochs": (1, 2, 3)}
    first = settings(asked(random_trials=6, seed=1, **space))
    assert first == settings(asked(random_trials=6, seed=1, **space))
    assert first != settings(asked(random_trials=6, seed=2, **space))
    assert len(set(map(str, first))) == 6


@given(
    sizes=st.tuples(*[st.integers(0, 32)] * 4).filter(any),
    seed=st.integers(0, 2**31 - 1),
    count=st.integers(2, MOST_TRIALS),
)
def test_a_draw_gives_no_setting_twice(
    sizes: tuple[int, int, int, int], seed: int, count: int
) -> None:
    ranks, alphas, rates, epochs = (tuple(range(1, size + 1)) for size in sizes)
    request = asked(
        ranks=ranks, alphas=alphas, learning_rates=rates, epochs=epochs,
        random_trials=count, seed=seed,
    )  # fmt: skip
    if count > math.prod(max(1, size) for size in sizes):
        with pytest.raises(InvalidArgument) as caught:
            settings(request)
        assert caught.value.field == "sweep.random_trials"
        return
    found = settings(request)
    assert len(found) == len(set(map(str, found))) == count
    for each in found:
        for value, axis in (
            (each.rank, ranks), (each.alpha, alphas),
            (each.learning_rate, rates), (each.epochs, epochs),
        ):  # fmt: skip
            assert value in axis if axis else value is None


def test_rates_are_drawn_evenly_in_their_logarithm() -> None:
    found = [
        each.learning_rate or 0.0
        for seed in range(40)
        for each in settings(
            asked(learning_rate_range=LogRange(low=1e-6, high=1e-2), random_trials=32, seed=seed)
        )
    ]
    assert min(found) >= 1e-6
    assert max(found) <= 1e-2
    below = sum(rate < 1e-4 for rate in found) / len(found)
    assert below == pytest.approx(0.5, abs=0.05)


@given(
    low=st.floats(1e-12, 0.99),
    width=st.floats(1.01, 1.02),
    count=st.integers(2, MOST_TRIALS),
    seed=st.integers(0, 2**31 - 1),
)
def test_rates_are_of_their_range_and_none_comes_twice(
    low: float, width: float, count: int, seed: int
) -> None:
    rates = LogRange(low=low, high=min(low * width, 1.0))
    found = settings(asked(learning_rate_range=rates, random_trials=count, seed=seed))
    drawn = [each.learning_rate or 0.0 for each in found]
    assert len(set(drawn)) == count
    assert low <= min(drawn)
    assert max(drawn) <= rates.high


def test_a_rate_is_never_rounded_out_of_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = LogRange(low=0.7, high=0.9)
    ends = iter([math.log(0.7) - 1e-15, math.log(0.9) + 1e-15])
    monkeypatch.setattr("random.Random.uniform", lambda *_: next(ends))
    found = settings(asked(learning_rate_range=rates, random_trials=2))
    assert [each.learning_rate for each in found] == [0.7, 0.9]


def test_with_a_range_more_may_be_drawn_than_there_are_combinations() -> None:
    found = settings(
        asked(ranks=(8, 16), learning_rate_range=LogRange(low=1e-5, high=1e-3), random_trials=8)
    )
    assert len({each.learning_rate for each in found}) == 8
    assert {each.rank for each in found} == {8, 16}


RANGE = LogRange(low=1e-5, high=1e-3)


@pytest.mark.parametrize(
    ("request_", "field", "text"),
    [
        (asked(), "sweep.space", "is empty"),
        (asked(ranks=(8,)), "sweep.space", "1 combinations"),
        (asked(ranks=(8, 16), epochs=tuple(range(1, 18))), "sweep.space", "34 combinations"),
        (asked(learning_rate_range=RANGE), "sweep.space.learning_rate_range", "random_trials"),
        (
            asked(learning_rate_range=RANGE, learning_rates=(1e-4,), random_trials=4),
            "sweep.space.learning_rate_range",
            "not both",
        ),
        (
            asked(learning_rate_range=LogRange(low=1e-3, high=1.009e-3), random_trials=4),
            "sweep.space.learning_rate_range.high",
            "0.001009 is less than 1.01 times the low of 0.001",
        ),
        (asked(ranks=(8, 16), random_trials=3), "sweep.random_trials", "the 2 combinations"),
    ],
)
def test_a_space_that_cannot_be_tried_is_refused(
    request_: AskedSweep, field: str, text: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        settings(request_)
    assert caught.value.field == field
    assert text in caught.value.description


def test_eight_trials_are_halved_thrice() -> None:
    assert rungs(8, 2) == (
        Rung(divisor=8, keep=4),
        Rung(divisor=4, keep=2),
        Rung(divisor=2, keep=1),
        Rung(divisor=1, keep=1),
    )
    assert rungs(9, 3) == (
        Rung(divisor=9, keep=3), Rung(divisor=3, keep=1), Rung(divisor=1, keep=1)
    )  # fmt: skip


@given(trials=st.integers(2, MOST_TRIALS), eta=st.sampled_from([2, 3]), total=st.integers(1, 5000))
def test_rungs_lead_to_one_trial_that_takes_all_its_steps(
    trials: int, eta: int, total: int
) -> None:
    found = rungs(trials, eta)
    kept = [trials, *(rung.keep for rung in found)]
    assert all(after == -(-before // eta) for before, after in pairwise(kept))
    assert found[-1] == Rung(divisor=1, keep=1)
    steps = [rung.step(total) for rung in found]
    assert steps == sorted(steps)
    assert steps[0] >= 1
    assert steps[-1] == total
    for rung, step in zip(found, steps, strict=True):
        assert (step - 1) * rung.divisor < total <= step * rung.divisor


def test_better_puts_who_failed_last_and_the_first_of_equals_first() -> None:
    assert better({3: 1.0, 0: 2.0, 1: None, 2: 1.0}) == [2, 3, 0, 1]


def test_a_rung_is_decided_by_its_losses() -> None:
    results = begun(4)
    for trial, loss in enumerate((2.0, 1.0, None, 1.5)):
        results = results.after(reached(trial, loss))
    decided = results.decide(2)
    assert decided == RungDecided(rung=0, going_on=(1, 3), stopped=(0, 2))
    results = results.after(decided)
    assert results.active == [1, 3]
    assert [trial.stop_reason for trial in results.trials] == [HALVED, "", "NON_FINITE", ""]
    assert "rung 1" in results.trials[0].stop_message
    assert results.decided == 1
    assert results.at_rung() == {}


def test_who_failed_never_goes_on_even_where_there_is_room() -> None:
    results = begun(2).after(reached(0, None)).after(reached(1, None))
    assert results.decide(1) == RungDecided(rung=0, going_on=(), stopped=(0, 1))


def test_what_was_told_before_changes_nothing() -> None:
    results = begun(2).after(reached(0, 1.0)).after(reached(1, 2.0))
    assert results.after(reached(0, 9.0)) == results
    assert results.after(reached(1, None, rung=1)).trials[1].rungs[1:] != ()
    decided = results.after(results.decide(1))
    assert decided.after(RungDecided(rung=0, going_on=(1,), stopped=(0,))) == decided
    assert decided.after(reached(1, 0.5, rung=1)) == decided


def test_the_best_is_known_when_the_last_rung_is_decided() -> None:
    results = begun(2).after(reached(0, 1.0)).after(reached(1, 2.0))
    results = results.after(results.decide(1))
    assert results.best(2) is None
    results = results.after(reached(0, 0.9, rung=1))
    results = results.after(results.decide(1))
    assert results.best(2) == 0


def test_planned_steps_are_those_of_the_halving() -> None:
    found = rungs(8, 2)
    assert planned_steps(begun(8), [80] * 8, found) == 4 * 10 + 2 * 20 + 40 + 80
    results = begun(8)
    for trial in range(8):
        results = results.after(reached(trial, float(trial)))
    results = results.after(results.decide(4))
    assert planned_steps(results, [80] * 8, found) == 4 * 10 + 2 * 20 + 40 + 80

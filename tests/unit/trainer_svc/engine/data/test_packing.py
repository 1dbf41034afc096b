from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from trainer_svc.engine.data import packing
from trainer_svc.engine.data.packing import StepPlan, cut, shuffled

MANY = np.random.default_rng(0).integers(4, 400, 2000)


def steps_of(plan: StepPlan) -> list[list[int]]:
    return [plan.records(step) for step in range(plan.total_steps)]


def test_pieces_hold_as_equal_a_number_of_tokens_as_whole_records_allow() -> None:
    lengths = np.array([3, 1, 4, 4, 2, 2, 5, 3])
    assert cut(lengths, 3).tolist() == [0, 3, 6, 8]
    places = cut(MANY, 50)
    tokens = [int(MANY[start:end].sum()) for start, end in pairwise(places)]
    assert max(abs(each - MANY.sum() / 50) for each in tokens) <= MANY.max()


@pytest.mark.parametrize("lengths", [[1, 1, 1, 97], [97, 1, 1, 1], [1, 97, 1, 1], [1, 1, 97, 1]])
@pytest.mark.parametrize("pieces", [1, 2, 3, 4])
def test_no_piece_is_empty(lengths: list[int], pieces: int) -> None:
    places = cut(np.array(lengths), pieces).tolist()
    assert (places[0], places[-1], len(places)) == (0, 4, pieces + 1)
    assert all(start < end for start, end in pairwise(places))


def test_the_order_is_of_seed_and_epoch_alone() -> None:
    assert shuffled(50, 1, 2).tolist() == shuffled(50, 1, 2).tolist()
    assert len({tuple(shuffled(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert sorted(shuffled(50, 0, 0)) == list(range(50))
    assert shuffled(8, 0, 0).tolist() == FIRST_ORDER


FIRST_ORDER = [3, 2, 1, 6, 0, 7, 4, 5]
"""Of numpy 2; another would change where a resumed run goes on."""


def test_every_epoch_has_every_record_once() -> None:
    plan = StepPlan(MANY, batch_tokens=4096, seed=3, epochs=3)
    steps = steps_of(plan)
    per_epoch = plan.steps_per_epoch
    for epoch in range(3):
        of_epoch = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(record for step in of_epoch for record in step) == list(range(2000))
        assert plan.epochs_passed((epoch + 1) * per_epoch) == epoch + 1
    tokens = [int(MANY[step].sum()) for step in steps]
    assert sum(tokens) / len(tokens) <= 4096
    assert max(tokens) <= 4096 + MANY.max()
    assert min(tokens) >= 4096 - 2 * MANY.max()


@pytest.mark.parametrize("batch_tokens", [1, 10, 10_000])
def test_a_step_has_a_record_however_small_or_large_the_budget(batch_tokens: int) -> None:
    plan = StepPlan([5, 9, 3, 7], batch_tokens=batch_tokens, seed=0, epochs=2)
    assert all(steps_of(plan))
    assert plan.total_steps == 2 * {1: 4, 10: 3, 10_000: 1}[batch_tokens]


def test_any_step_can_be_asked_for_first() -> None:
    late = StepPlan(MANY, batch_tokens=4096, seed=0, epochs=3)
    again = StepPlan(MANY, batch_tokens=4096, seed=0, epochs=3)
    for step in (late.total_steps - 1, 0, late.steps_per_epoch):
        assert late.records(step) == steps_of(again)[step]


def test_a_thousand_epochs_are_planned_as_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[int] = []

    def counted(count: int, seed: int, epoch: int) -> packing.Integers:
        laid_out.append(epoch)
        return shuffled(count, seed, epoch)

    monkeypatch.setattr(packing, "shuffled", counted)
    lengths = np.full(200_000, 100)
    plan = StepPlan(lengths, batch_tokens=8192, seed=0, epochs=1000)
    assert (
        plan.total_steps
        == 1000 * StepPlan(lengths, batch_tokens=8192, seed=0, epochs=1).total_steps
    )
    assert laid_out == []
    last = plan.total_steps - 1
    for step in range(last - 100, last + 1):
        plan.records(step)
    assert laid_out == [999]

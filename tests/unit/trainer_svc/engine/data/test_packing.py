from __future__ import annotations

from itertools import pairwise

import pytest

from trainer_svc.engine.data.packing import StepPlan, pack, shuffled


def test_groups_keep_order_and_budget() -> None:
    assert pack([3, 4, 5, 2, 9, 1], [5, 4, 0, 1, 2, 3], 8) == [[5], [4], [0, 1], [2, 3]]


def test_a_longer_record_is_a_step_of_its_own() -> None:
    assert pack([2, 50, 2], [0, 1, 2], 10) == [[0], [1], [2]]


def test_the_order_is_of_seed_and_epoch_alone() -> None:
    assert shuffled(50, 1, 2) == shuffled(50, 1, 2)
    assert len({tuple(shuffled(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_every_epoch_has_every_record_once() -> None:
    lengths = [5, 9, 3, 7, 4, 6, 8]
    plan = StepPlan(lengths, batch_tokens=12, seed=3, epochs=4)
    steps = [plan.records(step) for step in range(plan.total_steps)]
    boundaries = [
        step for step in range(plan.total_steps + 1) if plan.epochs_passed(step).is_integer()
    ]
    assert len(boundaries) == 5
    for start, end in pairwise(boundaries):
        assert sorted(record for step in steps[start:end] for record in step) == list(range(7))
    assert all(sum(lengths[record] for record in step) <= 12 for step in steps)


def test_any_step_can_be_asked_for_first() -> None:
    lengths = list(range(4, 40))
    plan = StepPlan(lengths, batch_tokens=64, seed=0, epochs=3)
    late = plan.records(plan.total_steps - 1)
    again = StepPlan(lengths, batch_tokens=64, seed=0, epochs=3)
    assert [again.records(step) for step in range(again.total_steps)][-1] == late
    assert again.epochs_passed(again.total_steps) == pytest.approx(3.0)

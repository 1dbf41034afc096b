"""A run's losses are kept, thinned, and say when it learns its records by heart."""

from __future__ import annotations

from itertools import pairwise

from trainer_svc.engine.step.curve import Curve


def run(steps: int) -> Curve:
    curve = Curve()
    for step in range(1, steps + 1):
        curve = curve.stepped(step, 1.0 / step, 1e-3)
    return curve


def test_a_short_run_is_kept_whole() -> None:
    assert run(3).training == ((1, 1.0, 1e-3), (2, 0.5, 1e-3), (3, 1 / 3, 1e-3))


def test_a_long_run_is_thinned_evenly() -> None:
    curve = run(10_000)
    steps = [step for step, _, _ in curve.training]
    assert 128 <= len(steps) <= 256
    assert {later - step for step, later in pairwise(steps)} == {curve.stride}
    assert steps[-1] > 10_000 - 2 * curve.stride


def test_many_evaluations_are_thinned_and_first_best_and_last_stay() -> None:
    curve = Curve()
    for step in range(1000):
        curve = curve.evaluated(step, 0.5 if step == 501 else 1.0 + step)
    points = dict(curve.validation)
    assert len(points) <= 256
    assert {0, 501, 999} <= points.keys()


def test_the_recent_loss_is_the_mean_since_the_last_evaluation() -> None:
    curve = Curve().stepped(1, 4.0, 0.1).evaluated(1, 3.0)
    assert curve.recent is None
    assert curve.stepped(2, 1.0, 0.1).stepped(3, 2.0, 0.1).recent == 1.5


def overfitted(loss: float, recent: float = 0.1, best: float = 1.0) -> bool:
    curve = Curve().evaluated(0, 5.0).evaluated(10, best).stepped(11, recent, 0.1)
    return curve.opens(loss)


def test_a_validation_loss_well_above_its_best_opens_the_gap() -> None:
    assert overfitted(1.2)
    assert not overfitted(1.05)
    # A tenth of a tiny loss is noise.
    assert not overfitted(0.05, recent=0.001, best=0.01)
    # What is above both alike has not been learned by heart.
    assert not overfitted(1.2, recent=1.1)


def test_the_gap_is_told_once_and_not_of_the_base() -> None:
    assert not Curve().evaluated(0, 1.0).stepped(1, 0.1, 0.1).opens(9.0)
    curve = Curve().evaluated(1, 1.0).stepped(2, 0.1, 0.1)
    assert curve.opens(9.0)
    assert not curve.model_copy(update={"told": True}).opens(9.0)

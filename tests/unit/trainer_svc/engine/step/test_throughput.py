"""How fast a run was is kept to a bounded size, over the whole run."""

from __future__ import annotations

from trainer_svc.engine.step.curve import Curve


def test_the_throughput_of_a_long_run_is_thinned_but_spans_it() -> None:
    curve = Curve()
    for step in range(1, 5001):
        curve = curve.paced(step, 10.0 * step)
    steps = [step for step, _ in curve.throughput]
    assert 64 <= len(steps) <= 256
    assert steps == sorted(set(steps))
    assert (steps[0], 5000 - steps[-1] < 200) == (1, True)
    assert all(speed == 10.0 * step for step, speed in curve.throughput)

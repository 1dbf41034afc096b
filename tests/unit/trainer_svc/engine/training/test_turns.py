from __future__ import annotations

from collections import Counter

import pytest

from trainer_svc.engine.training.turns import Turns


def passes(lengths: dict[str, list[int]], room: int, count: int) -> list[dict[str, int]]:
    """Return the tokens each job gets in `count` passes, none ever running out of records."""
    turns = Turns()
    waiting = {job: each * (2 * count * room // sum(each)) for job, each in lengths.items()}
    done: Counter[str] = Counter()
    taken = []
    for _ in range(count):
        ahead = {job: each[done[job] :][:room] for job, each in waiting.items()}
        counts = turns.take(ahead, room)
        taken.append(
            {job: sum(waiting[job][done[job] :][:number]) for job, number in counts.items()}
        )
        done.update(counts)
    return taken


@pytest.mark.parametrize(
    "lengths",
    [
        {"long": [900], "short": [10]},
        {"short": [10], "long": [900]},
        {"long": [1000], "one": [8], "two": [8], "three": [30], "four": [64]},
        {"mixed": [5, 700, 80], "long": [999], "short": [3]},
        {"one": [600], "two": [600], "three": [600]},
    ],
)
def test_everybody_gets_the_same_number_of_tokens(lengths: dict[str, list[int]]) -> None:
    taken = passes(lengths, 1000, 200)
    totals = Counter[str]()
    for each in taken:
        assert each
        assert sum(each.values()) <= 1000
        totals.update(each)
    mean = sum(totals.values()) / len(lengths)
    assert all(abs(totals[job] - mean) <= 0.05 * mean for job in lengths)


def test_a_short_step_does_not_wait_for_a_long_one() -> None:
    """What a job leaves of its share stays unused: the pass is shorter, and over sooner."""
    turns = Turns()
    assert turns.take({"small": [10], "large": [100] * 50}, 1000) == {"small": 1, "large": 5}
    assert turns.take({"small": [10], "large": [100] * 45}, 1000) == {"small": 1, "large": 5}


def test_what_a_job_left_of_its_share_is_not_saved_up() -> None:
    turns = Turns()
    for _ in range(5):
        turns.take({"small": [10], "large": [100] * 50}, 1000)
    assert turns.take({"small": [100] * 50, "large": [100] * 50}, 1000) == {"small": 5, "large": 5}


def test_a_record_longer_than_the_pass_is_one_of_its_own() -> None:
    turns = Turns()
    waiting = {"long": [5000, 10], "short": [10] * 3}
    seen = []
    while any(waiting.values()):
        counts = turns.take({job: each for job, each in waiting.items() if each}, 1000)
        seen.append(counts)
        waiting = {job: each[counts.get(job, 0) :] for job, each in waiting.items()}
    assert {"long": 1} in seen
    assert sum(each.get("long", 0) for each in seen) == 2


def test_whoever_is_alone_fills_each_pass_in_order() -> None:
    turns = Turns()
    turns.take({"one": [40] * 9, "two": [70] * 9}, 100)
    lengths, groups = [60, 30, 20, 90, 5, 5, 300, 1], []
    while lengths:
        count = turns.take({"one": lengths}, 100)["one"]
        groups.append(lengths[:count])
        lengths = lengths[count:]
    assert groups == [[60, 30], [20], [90, 5, 5], [300], [1]]

from __future__ import annotations

from collections import Counter

import pytest

from bench.serving.stats import gaps, median, median_ratio, percentile, ratio, zipf


def test_a_percentile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]

    assert percentile(values, 0.5) == 3.0
    assert percentile(values, 0.99) == 5.0
    assert percentile(values, 0.0) == 1.0
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile([7.0], 0.5) == 7.0


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_gaps_lie_between_neighbours() -> None:
    assert gaps([1.0, 1.5, 3.0]) == [0.5, 1.5]
    assert gaps([1.0]) == []


def test_a_ratio_needs_both_sides() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None
    assert ratio(3.0, None) is None
    assert ratio(3.0, 0.0) is None


def test_ratios_are_taken_within_pairs() -> None:
    # The machine was twice as slow in the second pair, for both.
    assert median_ratio([(20.0, 10.0), (10.0, 5.0), (30.0, 10.0)]) == 2.0


def test_a_pair_without_a_ratio_is_not_passed_over() -> None:
    assert median_ratio([(20.0, 10.0), (None, 5.0)]) is None
    assert median_ratio([]) is None
    assert median([1.0, None, 3.0]) is None
    assert median([]) is None
    assert median([1.0, 9.0, 3.0]) == 3.0


def test_zipf_draws_the_first_most_often_and_the_same_again() -> None:
    drawn = zipf(10_000, 4, seed=1)

    assert drawn == zipf(10_000, 4, seed=1)
    assert drawn != zipf(10_000, 4, seed=2)
    counts = Counter(drawn)
    # Weights 1, 1/2, 1/3, 1/4: the first has 48% of the draws.
    assert sorted(counts, key=lambda number: -counts[number]) == [0, 1, 2, 3]
    assert counts[0] / 10_000 == pytest.approx(0.48, abs=0.02)

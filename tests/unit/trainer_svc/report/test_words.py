"""Names and figures as people say them; axes with round ticks; lengths in bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainer_svc.report import words
from trainer_svc.report.axes import Scale, scale_of
from trainer_svc.report.model import Lengths


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (0.05, "0.05"),
        (3.1e-4, "3.1 × 10⁻⁴"),
        (-2e-5, "−2 × 10⁻⁵"),
        (-1.5, "−1.5"),
        (12345.6, "12,346"),
        (-12345.0, "−12,345"),
        (2.5e99, "2.5 × 10⁹⁹"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers(value: float, said: str) -> None:
    assert words.number(value) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("token_f1", "Token F1"),
        ("rouge_l", "ROUGE-L"),
        ("json_validity", "JSON validity"),
        ("grader:Tone of voice", "grader:Tone of voice"),
        ("", ""),
    ],
)
def test_names(name: str, said: str) -> None:
    assert words.words(name) == said


def test_scores_losses_and_counts() -> None:
    assert (words.score(0.9346), words.change(-0.05), words.change(0.05)) == (
        "0.935",
        "−0.050",
        "+0.050",
    )
    assert (words.loss(0.12345), words.loss(1e6)) == ("0.123", "1,000,000")
    assert (words.counted(1, "record"), words.counted(2000, "record")) == (
        "1 record",
        "2,000 records",
    )


def test_ticks_are_round() -> None:
    ticks = scale_of([0.13, 2.71], 0.0, 100.0).ticks()
    assert [tick.label for tick in ticks] == ["0", "1", "2", "3"]
    labels = [tick.label for tick in Scale(0.0, 1.0, 0.0, 100.0).ticks()]
    assert labels == ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    labels = [tick.label for tick in scale_of([-0.11, 0.3], 0.0, 100.0).ticks()]
    assert labels == ["−0.2", "−0.1", "0", "0.1", "0.2", "0.3"]


@settings(deadline=None)
@given(st.lists(st.floats(), min_size=1), st.none() | st.just(0.0))
@example([5e-324], None)
def test_every_value_has_a_place(values: list[float], low: float | None) -> None:
    scale = scale_of(values, 10.0, 110.0, low=low)
    assert scale.low < scale.high
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(10.0 <= tick.at <= 110.0 for tick in ticks)
    for value in values:
        if not math.isnan(value):
            assert 10.0 <= scale.at(value) <= 110.0


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=200))
def test_every_length_is_in_one_bin(lengths: list[int]) -> None:
    found = Lengths.of(np.array(lengths, dtype=np.int64))
    assert sum(found.counts) == len(lengths)
    assert 1 <= len(found.counts) <= 24
    assert found.counts[0] == sum(length < found.width for length in lengths) or (
        len(found.counts) == 1
    )
    assert found.longest == max(lengths)
    assert min(lengths) <= found.median <= max(lengths)


def test_one_very_long_sequence_does_not_make_the_bins_wide() -> None:
    found = Lengths.of(np.array([*range(1, 200), 100_000], dtype=np.int64))
    assert (found.width, len(found.counts), found.longest) == (10, 20, 100_000)
    assert found.counts[-1] == 11

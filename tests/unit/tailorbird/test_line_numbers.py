from __future__ import annotations

import pytest

from tailorbird.line_numbers import say_lines


@pytest.mark.parametrize(
    ("lines", "count", "said"),
    [
        ([7], 1, "line 7"),
        ([3, 7, 8, 9], 4, "lines 3, 7-9"),
        ([1, 2, 4, 5], 9, "lines 1-2, 4-5 and 5 more"),
        (range(1, 101), 57_000, "lines 1-100 and 56900 more"),
    ],
)
def test_runs_of_lines_are_said_by_their_ends(lines: list[int], count: int, said: str) -> None:
    assert say_lines(lines, count) == said

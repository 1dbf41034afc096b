"""Line numbers of a file as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def say_lines(lines: Sequence[int], count: int) -> str:
    """Say the first of `count` lines, `lines` in rising order: "lines 3, 7-9 and 5 more"."""
    # Of numbers that follow one another, each less its place in the list is the same.
    runs = [
        [line for _, line in run]
        for _, run in groupby(enumerate(lines), key=lambda placed: placed[1] - placed[0])
    ]
    said = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    more = count - len(lines)
    return f"{'line' if count == 1 else 'lines'} {said}{f' and {more} more' if more else ''}"

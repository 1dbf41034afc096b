"""A cell on several targets in turn, and what it gave, as plain values for the file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.serving.figures import Figures, figures
from bench.serving.plan import Plan
from bench.serving.targets import Target, say

SETTLE_SECONDS = 1.0
"""An engine is still busy for so long after its last token; the next target must not pay for it."""

Pair = dict[str, dict[str, Any]]
"""What each target measured of the same cell, in the same minute."""

Results = dict[str, list[Pair]]
"""The pairs of each cell."""


def alternate(
    results: Results,
    cell: str,
    targets: Sequence[Target],
    pairs: int,
    plan: Callable[[int], Plan],
    group: str = "",
) -> None:
    """Run a cell on each target in turn, `pairs` times, every second time backwards."""
    for number in range(pairs):
        pair: dict[str, Figures] = {}
        for target in targets if number % 2 == 0 else targets[::-1]:
            name = target.name.partition("-")[0]
            time.sleep(SETTLE_SECONDS)
            pair[name] = figures(target.run(plan(number)), group)
        keep(results, cell, {name: pair[name] for name in sorted(pair)})


def keep(results: Results, cell: str, pair: Mapping[str, Figures]) -> None:
    """Keep one pair, and tell a person of it."""
    results.setdefault(cell, []).append({name: asdict(one) for name, one in pair.items()})
    say(f"{cell}: " + "; ".join(f"{name} {_brief(one)}" for name, one in pair.items()))


def _brief(measured: Figures) -> str:
    if measured.failed:
        return f"{measured.failed} of {measured.requests} failed ({measured.first_error[:120]})"
    speed, first = measured.tokens_per_second or 0.0, measured.ttft_p50 or 0.0
    return f"{speed:,.0f} tokens/s, first {first:.3f} s, p99 gap {measured.itl_p99 or 0:.3f} s"

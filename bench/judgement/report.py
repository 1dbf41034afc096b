"""From what was found and measured to the figures that are quoted. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.judgement.faults import table
from bench.serving.stats import median

AT_LEAST: Mapping[str, float] = {"planted": 20, "throughput_while_judging": 0.7}
AT_MOST: Mapping[str, float] = {
    "missed": 0,
    "false_alarms": 0,
    "judging_share": 0.3,
    "sweep_ratio": 0.5,
}


def judging_share(costs: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the median share of the job in which judging takes most; None without any."""
    by_job: dict[str, list[float]] = {}
    for cost in costs:
        by_job.setdefault(cost["job"], []).append(cost["share"])
    return max((median(shares) or 0.0 for shares in by_job.values()), default=None)


def unmet(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for every figure that was measured and is not what it must be."""
    bounds = [(name, bound, False) for name, bound in AT_LEAST.items()]
    bounds += [(name, bound, True) for name, bound in AT_MOST.items()]
    lines = []
    for name, bound, is_most in bounds:
        value = figures.get(name)
        if value is not None and (value > bound if is_most else value < bound):
            lines.append(f"{name} is {value:g}, {'above' if is_most else 'below'} {bound:g}")
    return lines


def lines(content: Mapping[str, Any]) -> list[str]:
    """Return the file's content as lines to read: the faults' table, alarms, the figures."""
    told = table(content) if "faults" in content else []
    for case, said in content.get("said_of_clean", {}).items():
        told += [f"false alarm, {case}: {one['reason']}: {one['message']}" for one in said]
    for name in (*AT_LEAST, *AT_MOST):
        value = content.get(name)
        told.append(f"{name:26} {'not measured' if value is None else format(value, '.3g')}")
    return [*told, *(f"missed: {line}" for line in unmet(content))]

"""From what a soak has seen to its figures, and the bounds they must keep. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.jobs.growth import Sample, growth, per_minute
from bench.jobs.histories import doubled
from bench.jobs.sizes import SoakSizes
from bench.jobs.soak import Soaked

_PUBLISHED = 0.98
"""Share of the jobs that must be: 490 of 500."""
_GROWTH = 0.1
_KIB = 1024


def content(soaked: Soaked, jobs: int, sizes: SoakSizes) -> dict[str, Any]:
    """Return what goes into the file; `missed` says which bounds were not kept."""
    histories = soaked.histories
    twice = [line for history in histories for line in doubled(history)]
    if len(histories) != jobs:
        twice.append(f"{len(histories)} jobs were made, not {jobs}")
    figures: dict[str, Any] = {
        "jobs": jobs,
        "terminal": sum(history.has_ended for history in histories),
        "published": sum(history.state == "SUCCEEDED" for history in histories),
        "failed": dict(Counter(each.reason for each in histories if each.state == "FAILED")),
        "unended": {each.job: each.state for each in histories if not each.has_ended},
        "duplicates": len(twice),
        "leaked_processes": len(soaked.leaked),
        "fell": len(soaked.fell),
        "memory_growth": _rounded(growth(soaked.samples, _memory)),
        "descriptor_growth": _rounded(growth(soaked.samples, _descriptors)),
        "seconds": round(soaked.seconds, 1),
        "kills": dict(soaked.kills),
        "resumed": sum(history.resumed for history in histories),
        "refused_calls": dict(soaked.refused),
        "exit_statuses": soaked.exit_statuses,
        "memory_mib_per_minute": _rounded(per_minute(soaked.samples, _memory)),
        "descriptors_per_minute": _rounded(per_minute(soaked.samples, _descriptors)),
        "duplicate_lines": twice,
        "leaked_lines": soaked.leaked,
        "fell_lines": soaked.fell,
    }
    looks = {"samples": [asdict(each) for each in soaked.samples]}
    return {**figures, "missed": missed(figures, sizes), **looks}


def missed(figures: Mapping[str, Any], sizes: SoakSizes) -> list[str]:
    """Return a line for every bound that the figures miss."""
    jobs = figures["jobs"]
    least = math.floor(_PUBLISHED * jobs)
    lines = [
        f"{name} is {figures[name]}, less than {bound}"
        for name, bound in (("terminal", jobs), ("published", least))
        if figures[name] < bound
    ]
    most = {"duplicates": 0, "leaked_processes": 0, "fell": 0, "seconds": sizes.limit_seconds}
    if sizes.judges_growth:
        most |= {"memory_growth": _GROWTH, "descriptor_growth": _GROWTH}
    lines += [
        f"{name} is {figures[name]}, not at most {bound:g}"
        for name, bound in most.items()
        if figures[name] is None or figures[name] > bound
    ]
    if any(figures["exit_statuses"]):
        lines.append(f"the trainers ended with {figures['exit_statuses']}, not 0")
    return lines


def _memory(sample: Sample) -> float:
    return sample.memory_kib / _KIB


def _descriptors(sample: Sample) -> float:
    return sample.descriptors


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)

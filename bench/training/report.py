"""From raw pairs to the figures that are quoted. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.serving.stats import median, median_ratio

Pairs = Sequence[Mapping[str, Mapping[str, Any]]]

BOUNDS: Mapping[str, float] = {
    "speedup_vs_sequential_peft": 2.0,
    "speedup_vs_sequential_peft_100m": 1.3,
    "speedup_vs_trl_wall": 5.0,
    "single_job_ratio_vs_trl": 1.3,
    "packing_speedup": 3.0,
}
"""What each figure must be at least."""
MOST_LOSS_MEMORY = 0.3


def ratios(parts: Mapping[str, Pairs]) -> dict[str, float | None]:
    """Return the named figures; None where a part was not run.

    Every one is the median of the pairs' ratios. Speeds are ours over theirs, wall time is theirs
    over ours, and the memory of the loss is ours over the full one's, both above the memory that
    was held before.
    """

    def faster(part: str, ours: str, theirs: str) -> float | None:
        return median_ratio(
            (pair[ours]["tokens_per_second"], pair[theirs]["tokens_per_second"])
            for pair in parts.get(part, ())
        )

    return {
        "speedup_vs_sequential_peft": faster("steps", "engine", "peft"),
        "speedup_vs_sequential_peft_100m": faster("steps_100m", "engine", "peft"),
        "speedup_vs_trl_wall": median_ratio(
            (pair["trl"]["seconds"], pair["ours"]["seconds"]) for pair in parts.get("wall", ())
        ),
        "single_job_ratio_vs_trl": faster("single", "engine", "trl"),
        "packing_speedup": faster("packing", "packed", "padded"),
        "packing_speedup_vs_peft": faster("packing", "packed", "peft"),
        "chunked_loss_memory_ratio": median_ratio(
            (_grown(pair["chunked"]), _grown(pair["full"])) for pair in parts.get("loss", ())
        ),
    }


def missed(figures: Mapping[str, float | None]) -> list[str]:
    """Return a line for every figure that was measured and is not what it must be."""
    lines = [
        f"{name} is {value:.2f}, below {least}"
        for name, least in BOUNDS.items()
        if (value := figures[name]) is not None and value < least
    ]
    memory = figures["chunked_loss_memory_ratio"]
    if memory is not None and memory > MOST_LOSS_MEMORY:
        lines.append(f"chunked_loss_memory_ratio is {memory:.2f}, above {MOST_LOSS_MEMORY}")
    return lines


def medians(parts: Mapping[str, Pairs]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the median speed or time, and the peak memory, by part and side."""
    return {
        part: {
            side: {
                measure: median(pair[side].get(measure) for pair in pairs)
                for measure in ("tokens_per_second", "seconds")
            }
            | {"peak_mib": max(pair[side]["peak_mib"] for pair in pairs)}
            for side in pairs[0]
        }
        for part, pairs in parts.items()
        if pairs
    }


def table(told: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> list[str]:
    """Return the medians as lines to read."""
    lines = [f"{'part':14} {'side':10} {'tokens/s':>10} {'seconds':>9} {'peak MiB':>9}"]
    for part, sides in told.items():
        for side, measures in sides.items():
            cells = (
                _cell(measures["tokens_per_second"], ",.0f").rjust(10),
                _cell(measures["seconds"], ".2f").rjust(9),
                _cell(measures["peak_mib"], ",.0f").rjust(9),
            )
            lines.append(f"{part:14} {side:10} {' '.join(cells)}")
    return lines


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _grown(told: Mapping[str, Any]) -> float:
    return float(told["peak_mib"] - told["start_mib"])

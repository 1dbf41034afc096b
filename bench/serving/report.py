"""From raw pairs to the figures that are quoted. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.serving.stats import median, median_ratio, ratio

Pairs = Sequence[Mapping[str, Mapping[str, Any]]]

_MEASURES = (
    "tokens_per_second",
    "ttft_p50",
    "ttft_p99",
    "itl_p50",
    "itl_p99",
    "cpu_seconds_per_token",
)


def ratios(cells: Mapping[str, Pairs]) -> dict[str, float | None]:
    """Return the named figures; None where a cell was not run or had a failed request.

    Every ratio is the median of the pairs' ratios, ours over theirs.
    """

    def of(cell: str, measure: str, theirs: str = "peer") -> float | None:
        return median_ratio(
            (pair["ours"][measure], pair[theirs][measure]) for pair in cells.get(cell, ())
        )

    speed = "tokens_per_second"
    return {
        "ratio_tokens_per_second_base": of("base", speed),
        "ratio_tokens_per_second_8_adapters": of("8_adapters", speed),
        "ratio_tokens_per_second_8_adapters_cap_64": of("8_adapters_cap_64", speed),
        "adapter_share": _adapter_share(cells),
        "ratio_ceiling_base": of("base", speed, "ceiling"),
        "ratio_ceiling_8_adapters": of("8_adapters", speed, "ceiling"),
        "ratio_ttft_p50_8_adapters": of("8_adapters", "ttft_p50"),
        "ratio_itl_p99_8_adapters": of("8_adapters", "itl_p99"),
        "ratio_cpu_per_token": _worst(
            of("base", "cpu_seconds_per_token"), of("8_adapters", "cpu_seconds_per_token")
        ),
        "ratio_oversubscribed_tokens_per_second": of("oversubscribed", speed),
        "ratio_oversubscribed_ttft_p99": of("oversubscribed", "ttft_p99"),
        "load_8_ttft_seconds": median(pair["ours"]["ttft_max"] for pair in cells.get("load_8", ())),
        "ratio_flood_ttft": of("flood", "ttft_p50"),
        "cold_to_first_token_excess_ms": _cold_excess(cells.get("cold", ())),
        "cold_itl_p99_growth": _growth(cells.get("cold_beside", ())),
    }


def medians(cells: Mapping[str, Pairs]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the median of every measure, by cell and target."""
    return {
        cell: {
            target: {
                measure: median(pair[target][measure] for pair in pairs) for measure in _MEASURES
            }
            for target in pairs[0]
        }
        for cell, pairs in cells.items()
        if pairs
    }


def failures(cells: Mapping[str, Pairs]) -> list[str]:
    """Return a line for every cell and target with a failed request."""
    return [
        f"{cell} {number + 1}, {target}: {told['failed']} of {told['requests']} requests failed: "
        f"{told['first_error']}"
        for cell, pairs in cells.items()
        for number, pair in enumerate(pairs)
        for target, told in pair.items()
        if told["failed"]
    ]


def _adapter_share(cells: Mapping[str, Pairs]) -> float | None:
    both = zip(cells.get("8_adapters", ()), cells.get("base", ()), strict=True)
    return median_ratio(
        (adapted["ours"]["tokens_per_second"], base["ours"]["tokens_per_second"])
        for adapted, base in both
    )


def _cold_excess(pairs: Pairs) -> float | None:
    cold = median(pair["cold"]["ttft_p50"] for pair in pairs)
    warm = median(pair["warm"]["ttft_p50"] for pair in pairs)
    return None if cold is None or warm is None else 1000 * (cold - 3 * warm)


def _growth(pairs: Pairs) -> float | None:
    grown = median(ratio(pair["with"]["itl_p99"], pair["without"]["itl_p99"]) for pair in pairs)
    return None if grown is None else grown - 1


def _worst(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None

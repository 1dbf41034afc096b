from __future__ import annotations

from typing import Any

import pytest

from bench.serving import picture
from bench.serving.report import failures, medians, ratios

NAMES = {
    "ratio_tokens_per_second_base",
    "ratio_tokens_per_second_8_adapters",
    "ratio_tokens_per_second_8_adapters_cap_64",
    "adapter_share",
    "ratio_ceiling_base",
    "ratio_ceiling_8_adapters",
    "ratio_ttft_p50_8_adapters",
    "ratio_itl_p99_8_adapters",
    "ratio_cpu_per_token",
    "ratio_oversubscribed_tokens_per_second",
    "ratio_oversubscribed_ttft_p99",
    "load_8_ttft_seconds",
    "ratio_flood_ttft",
    "cold_to_first_token_excess_ms",
    "cold_itl_p99_growth",
}


def _told(speed: float = 100.0, **measures: float) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "requests": 4,
        "failed": 0,
        "first_error": "",
        "tokens_per_second": speed,
        "ttft_p50": 0.1,
        "ttft_p99": 0.2,
        "ttft_max": 0.3,
        "itl_p50": 0.01,
        "itl_p99": 0.02,
        "cpu_seconds_per_token": 0.001,
    }
    return plain | measures


def _cells() -> dict[str, list[dict[str, dict[str, Any]]]]:
    return {
        "base": [
            {
                "ours": _told(220.0, cpu_seconds_per_token=0.0004),
                "peer": _told(200.0),
                "ceiling": _told(250.0),
            }
        ],
        "8_adapters": [
            {
                "ours": _told(150.0, cpu_seconds_per_token=0.0006, ttft_p50=0.03, itl_p99=0.01),
                "peer": _told(75.0),
                "ceiling": _told(160.0),
            }
        ],
        "8_adapters_cap_64": [{"ours": _told(150.0), "peer": _told(25.0)}],
        "oversubscribed": [{"ours": _told(120.0, ttft_p99=0.1), "peer": _told(60.0)}],
        "flood": [{"ours": _told(ttft_p50=0.2), "peer": _told(ttft_p50=8.0)}],
        "load_8": [{"ours": _told(ttft_max=1.5)}],
        "cold": [
            {"cold": _told(ttft_p50=0.2), "warm": _told(ttft_p50=0.05)},
        ],
        "cold_beside": [
            {
                "with": _told(itl_p99=0.022),
                "without": _told(itl_p99=0.02),
                "with_guests": _told(),
                "without_guests": _told(),
            }
        ],
    }


def test_the_named_figures() -> None:
    found = ratios(_cells())

    assert found == pytest.approx(
        {
            "ratio_tokens_per_second_base": 1.1,
            "ratio_tokens_per_second_8_adapters": 2.0,
            "ratio_tokens_per_second_8_adapters_cap_64": 6.0,
            "adapter_share": 150 / 220,
            "ratio_ceiling_base": 0.88,
            "ratio_ceiling_8_adapters": 150 / 160,
            "ratio_ttft_p50_8_adapters": 0.3,
            "ratio_itl_p99_8_adapters": 0.5,
            # The worse of 0.4 and 0.6.
            "ratio_cpu_per_token": 0.6,
            "ratio_oversubscribed_tokens_per_second": 2.0,
            "ratio_oversubscribed_ttft_p99": 0.5,
            "load_8_ttft_seconds": 1.5,
            "ratio_flood_ttft": 0.025,
            # 200 ms less three times 50 ms.
            "cold_to_first_token_excess_ms": 50.0,
            "cold_itl_p99_growth": 0.1,
        }
    )


def test_what_was_not_run_has_no_figure() -> None:
    found = ratios({})

    assert set(found) == NAMES
    assert set(found.values()) == {None}


def test_failures_are_told_with_their_cell() -> None:
    cells = _cells()
    cells["flood"][0]["ours"] |= {"failed": 2, "first_error": "no slot"}

    assert failures(cells) == ["flood 1, ours: 2 of 4 requests failed: no slot"]


def test_medians_by_cell_and_target() -> None:
    cells = {"base": [{"ours": _told(speed)} for speed in (1.0, 9.0, 2.0)], "flood": []}

    found = medians(cells)

    assert found["base"]["ours"]["tokens_per_second"] == 2.0
    assert "flood" not in found


def test_the_picture_shows_what_was_measured() -> None:
    drawn = picture.draw(medians(_cells()), 'a "machine" & its cores')

    assert drawn.startswith("<svg")
    assert drawn.count("Tokens/s") == 4
    assert "&amp; its cores" in drawn
    assert ">220</text>" in drawn
    assert ">8.00 s</text>" in drawn


def test_the_picture_leaves_out_what_was_not() -> None:
    cells = {"base": _cells()["base"]}

    assert picture.draw(medians(cells), "").count("Tokens/s") == 1

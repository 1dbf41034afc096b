"""What the bench of OpenAI's API makes of its pairs."""

from __future__ import annotations

from typing import Any

from bench.http import missed, ratios


def _pair(ours: float, peer: float, grpc: float) -> dict[str, dict[str, Any]]:
    rest = {"ttft_p50": 2.0, "itl_p99": 2.0, "cpu_seconds_per_token": 2.0}
    speeds = {"ours": ours, "peer": peer, "grpc": grpc}
    return {name: {"tokens_per_second": speed, **rest} for name, speed in speeds.items()}


def test_a_ratio_is_the_median_of_pairs_ours_over_the_others() -> None:
    pairs = [_pair(90, 100, 180), _pair(200, 100, 100), _pair(98, 100, 98)]
    found = ratios({"base": pairs, "chat": [_pair(3, 1, 6)]})
    assert found["ratio_tokens_per_second_base"] == 0.98
    assert found["ratio_tokens_per_second_chat"] == 3
    assert found["ratio_tokens_per_second_over_grpc_base"] == 1
    assert found["ratio_tokens_per_second_over_grpc_chat"] == 0.5
    assert missed(found) == []


def test_a_bound_is_missed_below_it_and_where_nothing_was_measured() -> None:
    below = ratios({"base": [_pair(94, 100, 100)]})
    assert missed(below) == ["ratio_tokens_per_second_base: 0.940, at least 0.95"]
    assert missed(ratios({})) == ["ratio_tokens_per_second_base: not measured, at least 0.95"]

from __future__ import annotations

import pytest

from bench.serving.figures import figures
from bench.serving.plan import Answer, CellResult


def _answer(start: float, *times: float, tokens: int = 4, error: str = "") -> Answer:
    end = times[-1] if times else start + 1
    return Answer("only", start, end, list(times), tokens, error)


def test_figures_of_a_cell() -> None:
    answers = (_answer(0.0, 0.5, 0.75, 1.0), _answer(1.0, 1.25, 2.0))

    found = figures(CellResult(4.0, answers))

    assert (found.requests, found.failed, found.tokens) == (2, 0, 8)
    assert found.seconds == 2.0
    assert found.tokens_per_second == 4.0
    assert (found.ttft_p50, found.ttft_p99, found.ttft_max) == (0.25, 0.5, 0.5)
    assert (found.itl_p50, found.itl_p99) == (0.25, 0.75)
    assert found.cpu_seconds_per_token == 0.5


def test_a_gap_lies_within_one_answer() -> None:
    found = figures(CellResult(0.0, (_answer(0.0, 1.0), _answer(0.0, 9.0))))

    assert found.itl_p50 is None
    assert found.ttft_max == 9.0


def test_a_failed_request_leaves_no_figure_but_counts() -> None:
    answers = (_answer(0.0, 0.5, 1.0), _answer(0.0, tokens=0, error="no slot"))

    found = figures(CellResult(1.0, answers))

    assert (found.requests, found.failed, found.first_error) == (2, 1, "no slot")
    assert found.tokens_per_second is None
    assert found.ttft_p50 is None
    assert found.cpu_seconds_per_token is None


def test_latencies_of_one_group_and_counts_of_the_whole_cell() -> None:
    flood, other = _answer(0.0, 4.0, 5.0), _answer(0.0, 1.0)
    flood.group, other.group = "flood", "other"

    found = figures(CellResult(0.0, (flood, other)), "other")

    assert (found.ttft_p50, found.itl_p50) == (1.0, None)
    assert (found.requests, found.tokens, found.seconds) == (2, 8, 5.0)
    assert figures(CellResult(0.0, (flood,)), "other").ttft_p50 is None


def test_a_group_has_no_figure_where_another_failed() -> None:
    flood, other = _answer(0.0, tokens=0, error="refused"), _answer(0.0, 1.0)
    flood.group, other.group = "flood", "other"

    assert figures(CellResult(0.0, (flood, other)), "other").ttft_p50 is None


def test_a_result_survives_its_way_as_json() -> None:
    import json

    result = CellResult(0.25, (_answer(0.0, 0.5, tokens=1), _answer(0.0, error="broke")))

    assert CellResult.from_told(json.loads(result.to_json())) == result


def test_times_are_those_of_messages_with_text() -> None:
    # Four tokens came in two messages: one gap.
    found = figures(CellResult(0.0, (_answer(0.0, 0.5, 1.5, tokens=4),)))

    assert found.itl_p99 == pytest.approx(1.0)
    assert found.tokens == 4

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.rollout.figures import content
from bench.rollout.load_plan import Asked
from bench.rollout.pods import Ended
from bench.rollout.proxy import read_attempts
from bench.rollout.serving import Restart, Rolled
from bench.rollout.sizes import Sizes
from bench.rollout.training import Round
from bench.rollout.watching import gaps_and_repeats

SIZES = Sizes(rounds=1, least_requests=3)
ROUND = Round(
    restarts=(),
    events=9,
    watch_gaps=0,
    watch_repeats=0,
    watch_error="",
    history_differs=False,
    job_states=("QUEUED", "SUCCEEDED"),
    ends=1,
    published_events=1,
    versions=1,
    final_state="SUCCEEDED",
)


def asked(number: int, begin: float, end: float, **told: Any) -> Asked:
    return Asked(number, "tenants/a", "Generate", False, begin, end, **told)


def restart(begin: float, end: float, status: int = 0) -> Restart:
    return Restart(0, "127.0.0.1:1", begin, end, Ended(status, 1.0))


def rolled(*requests: Asked, status: int = 0, resent: bool = False) -> Rolled:
    attempts = {one.number: ["127.0.0.1:1"] for one in requests}
    if resent:
        attempts[0] = ["127.0.0.1:1", "127.0.0.1:2"]
    restarts = [restart(10, 20), restart(30, 40, status)]
    return Rolled(requests, attempts, restarts)


GOOD = (asked(0, 1, 2), asked(1, 9, 12), asked(2, 31, 33))


def test_what_loses_nothing_misses_nothing() -> None:
    told = content(rolled(*GOOD), [ROUND], SIZES)
    assert told["missed"] == []
    assert (told["requests"], told["restarts"], told["failed"]) == (3, 2, 0)
    assert told["in_flight_at_sigterm"] == [1, 0]
    assert told["seconds_outside_restarts"] == {"requests": 2, "p50": 1, "p99": 3}
    assert told["seconds_during_restarts"] == {"requests": 1, "p50": 2, "p99": 2}
    assert told["job_states"] == ["SUCCEEDED"]


def test_a_long_stream_is_no_latency() -> None:
    told = content(rolled(*GOOD, replace(GOOD[0], is_long=True, end=500)), [ROUND], SIZES)
    assert told["seconds_outside_restarts"]["requests"] == 2


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"least_requests": 4}, "requests is 3, less than 4"),
        ({"rounds": 2}, "restarts is 2, less than 4"),
    ],
)
def test_too_little_is_a_miss(change: dict[str, Any], line: str) -> None:
    assert content(rolled(*GOOD), [ROUND], replace(SIZES, **change))["missed"] == [line]


@pytest.mark.parametrize("fault", ["refused", "cut_short", "wrong"])
def test_every_fault_is_a_failed_request_told_with_its_text(fault: Any) -> None:
    told = content(rolled(*GOOD, asked(3, 4, 5, fault=fault, why="why")), [ROUND], SIZES)
    assert (told["failed"], told[fault]) == (1, 1)
    assert told["failures"][0]["why"] == "why"
    assert told["missed"] == ["failed is 1, not 0"]


def test_a_request_sent_twice_is_a_miss() -> None:
    told = content(rolled(*GOOD, resent=True), [ROUND], SIZES)
    assert told["missed"] == ["resent is 1, not 0"]


def test_a_replica_that_had_to_be_killed_is_a_miss() -> None:
    told = content(rolled(*GOOD, status=-9), [ROUND], SIZES)
    assert told["exit_statuses"] == [0, -9]
    assert told["missed"] == ["ended_badly is 1, not 0"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"watch_gaps": 2}, "watch_gaps is 2, not 0"),
        ({"watch_repeats": 1}, "watch_repeats is 1, not 0"),
        ({"watch_error": "gone"}, "job 0: the watch failed: gone"),
        (
            {"history_differs": True},
            "job 0: its watcher saw another history than the trainer tells afterwards",
        ),
        ({"final_state": "FAILED"}, "job 0: it is FAILED"),
        ({"ends": 2}, "job 0: 2 ends, not 1"),
        ({"published_events": 0}, "job 0: 0 published events, not 1"),
        ({"versions": 2}, "job 0: 2 versions, not 1"),
    ],
)
def test_a_job_that_went_wrong_is_a_miss(change: dict[str, Any], line: str) -> None:
    told = content(rolled(*GOOD), [replace(ROUND, **change)], SIZES)
    assert told["missed"] == [line]


@pytest.mark.parametrize(
    ("sequences", "gaps", "repeats"),
    [
        ([], 0, 0),
        ([1, 2, 3], 0, 0),
        ([1, 3], 1, 0),
        ([2, 3], 1, 0),
        ([1, 2, 2, 3], 0, 1),
        ([1, 2, 1, 2, 3], 0, 2),
        ([1, 3, 2], 0, 1),
    ],
)
def test_gaps_and_repeats(sequences: list[int], gaps: int, repeats: int) -> None:
    assert gaps_and_repeats(sequences) == (gaps, repeats)


def test_attempts_are_read_from_the_proxys_log() -> None:
    lines = ["7 127.0.0.1:1", "8 127.0.0.1:1, 127.0.0.1:2", "7 127.0.0.1:2", "9 -"]
    assert read_attempts(lines) == {
        7: ["127.0.0.1:1", "127.0.0.1:2"],
        8: ["127.0.0.1:1", "127.0.0.1:2"],
        9: [],
    }

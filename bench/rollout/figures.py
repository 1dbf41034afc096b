"""From what was seen to the figures that are quoted, and the bounds they must keep. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.rollout.load_plan import Asked
from bench.rollout.serving import Restart, Rolled
from bench.rollout.sizes import Sizes
from bench.rollout.training import Round
from bench.serving.stats import percentile


def content(rolled: Rolled, rounds: Sequence[Round], sizes: Sizes) -> dict[str, Any]:
    """Return what goes into the file; `missed` says which bounds were not kept."""
    figures = {**_serving(rolled), **_trainer(rounds)}
    return {**figures, "missed": missed(figures, rounds, sizes)}


def missed(figures: Mapping[str, Any], rounds: Sequence[Round], sizes: Sizes) -> list[str]:
    """Return a line for every bound that the figures miss."""
    lines = [
        f"{name} is {figures[name]}, less than {least}"
        for name, least in (("requests", sizes.least_requests), ("restarts", sizes.restarts))
        if figures[name] < least
    ]
    lines += [
        f"{name} is {figures[name]}, not 0"
        for name in ("failed", "resent", "watch_gaps", "watch_repeats", "ended_badly")
        if figures[name]
    ]
    for number, told in enumerate(rounds):
        lines += [f"job {number}: {line}" for line in _wrong_with(told)]
    return lines


def _wrong_with(told: Round) -> Iterable[str]:
    """Yield what is wrong with a job but for its watcher's gaps and repeats."""
    if told.watch_error:
        yield f"the watch failed: {told.watch_error}"
    if told.history_differs:
        yield "its watcher saw another history than the trainer tells afterwards"
    if told.final_state != "SUCCEEDED":
        yield f"it is {told.final_state}"
    for what, count in (
        ("ends", told.ends),
        ("published events", told.published_events),
        ("versions", told.versions),
    ):
        if count != 1:
            yield f"{count} {what}, not 1"


def _serving(rolled: Rolled) -> dict[str, Any]:
    asked, restarts = rolled.asked, rolled.restarts
    faults = Counter(one.fault for one in asked if one.fault)
    return {
        "requests": len(asked),
        "restarts": len(restarts),
        "failed": faults.total(),
        "refused": faults["refused"],
        "cut_short": faults["cut_short"],
        "wrong": faults["wrong"],
        "failures": [asdict(one) for one in asked if one.fault],
        # Neither the proxy nor gRPC gave a request to a replica a second time.
        "resent": sum(len(sent) > 1 for sent in rolled.attempts.values()),
        "requests_by_method": dict(Counter(one.method for one in asked)),
        "requests_of_base": sum("/adapters/" not in one.model for one in asked),
        "in_flight_at_sigterm": [_in_flight(rolled, restart) for restart in restarts],
        "seconds_outside_restarts": _latency(asked, restarts, during=False),
        "seconds_during_restarts": _latency(asked, restarts, during=True),
        "restart_seconds": [round(each.end - each.begin, 2) for each in restarts],
        "drain_seconds": [round(each.ended.seconds, 2) for each in restarts],
        "exit_statuses": [each.ended.status for each in restarts],
        "ended_badly": sum(each.ended.status != 0 for each in restarts),
    }


def _in_flight(rolled: Rolled, restart: Restart) -> int:
    """Return how many requests the replica had when it was told to stop."""
    return sum(
        one.begin < restart.begin < one.end
        and restart.address in rolled.attempts.get(one.number, ())
        for one in rolled.asked
    )


def _latency(
    asked: Sequence[Asked], restarts: Sequence[Restart], *, during: bool
) -> dict[str, float | int | None]:
    """Return percentiles of whole answers, of the short requests alone."""
    seconds = [
        one.end - one.begin
        for one in asked
        if not one.is_long
        and any(each.begin <= one.begin <= each.end for each in restarts) is during
    ]
    return {
        "requests": len(seconds),
        "p50": round(percentile(seconds, 0.5), 3) if seconds else None,
        "p99": round(percentile(seconds, 0.99), 3) if seconds else None,
    }


def _trainer(rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "watch_gaps": sum(told.watch_gaps for told in rounds),
        "watch_repeats": sum(told.watch_repeats for told in rounds),
        "trainer_restarts": sum(len(told.restarts) for told in rounds),
        "job_states": [told.final_state for told in rounds],
        "jobs": [asdict(told) for told in rounds],
    }

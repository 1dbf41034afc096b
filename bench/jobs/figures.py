"""From single times to the figures of the queue, and the bounds they must keep. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.jobs.queue import Measured
from bench.serving.stats import percentile

BOUNDS = {"claim_p99_ms": 50.0, "list_page_p99_ms": 50.0, "event_to_watcher_p50_ms": 100.0}
"""The most that each may be."""


def content(measured: Measured) -> dict[str, Any]:
    """Return what goes into the file; `missed` says which bounds were not kept."""
    times = {
        "claim": measured.claims,
        "list_page": [*measured.first_pages, *measured.later_pages],
        "list_later_page": measured.later_pages,
        "event_to_watcher": measured.to_watcher,
        "create": measured.creates,
        "heartbeat": measured.heartbeats,
        "look_without_room": measured.looks,
    }
    figures: dict[str, Any] = {}
    for name, seconds in times.items():
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            figures[f"{name}_{label}_ms"] = _milliseconds(seconds, share)
    return {
        **figures,
        "counts": {name: len(seconds) for name, seconds in times.items()},
        "missed": missed(figures),
        "filling_seconds": round(measured.filling, 1),
        "postgresql": measured.server,
    }


def missed(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for every bound that the figures miss."""
    return [
        f"{name} is {figures[name]}, more than {most:g}"
        for name, most in BOUNDS.items()
        if figures[name] is None or figures[name] > most
    ]


def _milliseconds(seconds: list[float], share: float) -> float | None:
    return round(percentile(seconds, share) * 1000, 2) if seconds else None

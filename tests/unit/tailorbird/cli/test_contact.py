"""What a watcher is told of a trainer that is away."""

from __future__ import annotations

import grpc
import pytest

from tailorbird.call_error import CallError
from tailorbird.cli.contact import Contact, duration

AWAY = CallError(grpc.StatusCode.UNAVAILABLE, "connection\nrefused")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_an_absence_is_told_once_a_minute_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(), list[str]()
    monkeypatch.setattr("tailorbird.cli.contact.time", clock)
    contact = Contact(said.append)
    for second in range(0, 125, 5):
        clock.now = second
        contact.lost(AWAY, 900 - second)
    contact.back()
    contact.lost(AWAY, 900)
    assert said == [
        "connection lost: connection refused; trying again, for 15 min at most. "
        "The job does not need this watch",
        "no trainer answers yet; trying again, for 14 min more",
        "no trainer answers yet; trying again, for 13 min more",
        "connected again; no event was missed",
        said[0],
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59.4, "59 s"), (235, "3 min 55 s"), (3600, "1 h"), (7500, "2 h 5 min")],
)
def test_a_span_of_time_reads_well(seconds: float, said: str) -> None:
    assert duration(seconds) == said

"""A route that moves while requests stream: who answered, and did anyone notice."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from examples.demo.tenants import Question
from tailorbird.client import CallError, ServingClient

_STREAMS = 6
_BEFORE, _AFTER = 18, 18
_PATIENCE = 90.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer; times are monotonic seconds."""

    started: float
    version: str
    text: str


@dataclass(slots=True)
class SwapReport:
    """What the streams saw."""

    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    promoted_at: float = float("inf")
    promotion_seconds: float = 0.0

    @property
    def by_version(self) -> Counter[str]:
        """Answers by the version that gave them."""
        return Counter(answer.version for answer in self.answers)

    def began_after(self) -> list[Answer]:
        """Answers to requests that began after Promote had returned."""
        return [answer for answer in self.answers if answer.started > self.promoted_at]


def promote_under_load(
    serving: ServingClient,
    adapter: str,
    version: str,
    questions: list[Question],
    tick: Callable[[SwapReport], None] = lambda _: None,
) -> SwapReport:
    """Keep streams of requests going, promote `version`, and go on until it has answered a while.

    `tick` hears of the report after every answer, one call at a time.
    """
    report, changed, stop = SwapReport(), threading.Condition(), threading.Event()
    turns = itertools.cycle(questions)

    def stream() -> None:
        while not stop.is_set():
            with changed:
                question = next(turns)
            started, by, pieces = time.monotonic(), "", list[str]()
            try:
                for piece in serving.stream_generate(question.request(adapter), timeout=_PATIENCE):
                    by = by or piece.version
                    pieces.append(piece.text)
            except CallError as error:
                with changed:
                    report.failures.append(str(error))
                    changed.notify_all()
                continue
            with changed:
                report.answers.append(Answer(started, by, "".join(pieces)))
                tick(report)
                changed.notify_all()

    streams = [threading.Thread(target=stream, daemon=True) for _ in range(_STREAMS)]
    for thread in streams:
        thread.start()
    try:
        with changed:
            changed.wait_for(lambda: len(report.answers) >= _BEFORE or report.failures, _PATIENCE)
        before = time.monotonic()
        serving.promote(version)
        with changed:
            report.promoted_at = time.monotonic()
            report.promotion_seconds = report.promoted_at - before
            changed.wait_for(
                lambda: len(report.began_after()) >= _AFTER or report.failures, _PATIENCE
            )
    finally:
        stop.set()
        for thread in streams:
            thread.join()
    return report

"""What one cell measured, from its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.serving.plan import Answer, CellResult
from bench.serving.stats import gaps, percentile


@dataclass(frozen=True, slots=True)
class Figures:
    """One cell of one server. Seconds; None where nothing was measured.

    A cell with a failed request has no figures but its counts: what is faster because it refuses
    is not faster.
    """

    requests: int
    failed: int
    first_error: str
    tokens: int
    seconds: float
    tokens_per_second: float | None
    ttft_p50: float | None
    ttft_p99: float | None
    ttft_max: float | None
    itl_p50: float | None
    itl_p99: float | None
    cpu_seconds_per_token: float | None


def figures(result: CellResult, group: str = "") -> Figures:
    """Return the figures of a cell; its latencies are those of one group, if one is named.

    The counts and what comes of them are the whole cell's: no group gains by another's refusals.
    """
    answers = result.answers
    told = [answer for answer in answers if not group or answer.group == group]
    failed = [answer for answer in answers if answer.error]
    tokens = sum(answer.tokens for answer in answers)
    seconds = _span(answers)
    whole = bool(answers) and not failed
    firsts = [answer.times[0] - answer.start for answer in told if answer.times]
    between = [gap for answer in told for gap in gaps(answer.times)]

    def of(values: Sequence[float], share: float) -> float | None:
        return percentile(values, share) if whole and values else None

    return Figures(
        requests=len(answers),
        failed=len(failed),
        first_error=failed[0].error if failed else "",
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds if whole and seconds else None,
        ttft_p50=of(firsts, 0.5),
        ttft_p99=of(firsts, 0.99),
        ttft_max=of(firsts, 1.0),
        itl_p50=of(between, 0.5),
        itl_p99=of(between, 0.99),
        cpu_seconds_per_token=result.cpu_seconds / tokens if whole and tokens else None,
    )


def _span(answers: Sequence[Answer]) -> float:
    if not answers:
        return 0.0
    return max(answer.end for answer in answers) - min(answer.start for answer in answers)

"""Pictures of estimates: a dot for the value, whiskers for its 95% interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer_svc.judgement.model import Candidate, Interval, Judgement
from trainer_svc.report import words
from trainer_svc.report.axes import WIDTH, Scale, Tick, scale_of

_LEFT, _RIGHT, _TOP, _ROW = 106, WIDTH - 58, 8, 26
_AXIS = 26

_Estimate = tuple[str, Candidate, Interval]


@dataclass(frozen=True)
class Row:
    """One estimate; `style` gives colour and shape, so that either tells whose it is."""

    name: str
    style: str
    y: float
    value: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Forest:
    """Estimates below one another on one axis; `zero` is where a difference of nothing lies."""

    title: str
    summary: str
    ticks: tuple[Tick, ...]
    rows: tuple[Row, ...]
    bottom: int
    zero: float | None = None
    top: int = _TOP
    left: int = _LEFT
    right: int = _RIGHT
    width: int = WIDTH

    @property
    def height(self) -> int:
        """Of the picture, with its axis."""
        return self.bottom + _AXIS


def metric_names(judgement: Judgement) -> list[str]:
    """Return the metrics of any candidate, the primary one first."""
    names = {name for each in judgement.candidates for name in each.metrics}
    return sorted(names, key=lambda name: (name != judgement.primary_metric, name))


def metric_forest(judgement: Judgement, name: str) -> Forest:
    """Return the picture of a metric, of all candidates that have it."""
    estimates = [
        (candidate_label(judgement, each.candidate), each.candidate, each.metrics[name])
        for each in judgement.candidates
        if name in each.metrics
    ]
    return _forest(words.words(name), estimates, Scale(0.0, 1.0, _LEFT, _RIGHT), words.score)


def difference_forest(judgement: Judgement) -> Forest | None:
    """Return the picture of the tuned adapter less each other candidate; None without any."""
    estimates = [
        (f"− {candidate_label(judgement, each.against)}", each.against, each.difference)
        for each in judgement.comparisons
    ]
    if not estimates:
        return None
    ends = [end for _, _, found in estimates for end in (found.low, found.high)]
    scale = scale_of([*ends, 0.0], _LEFT, _RIGHT)
    title = f"{words.words(judgement.primary_metric)}, tuned less another"
    return _forest(title, estimates, scale, words.change, zero=scale.at(0.0))


def candidate_label(judgement: Judgement, candidate: Candidate) -> str:
    """Name a candidate, and say how many examples its prompt has."""
    name, shots = words.candidate_name(candidate), judgement.few_shot_examples
    return f"{name} ({shots})" if candidate is Candidate.FEW_SHOT and shots else name


def with_interval(found: Interval, speak: Callable[[float], str] = words.score) -> str:
    """Say an estimate with its interval."""
    return f"{speak(found.value)} [{speak(found.low)}, {speak(found.high)}]"


def _forest(
    title: str,
    estimates: Sequence[_Estimate],
    scale: Scale,
    speak: Callable[[float], str],
    zero: float | None = None,
) -> Forest:
    rows = tuple(
        Row(
            name=name,
            style=candidate.value,
            y=_TOP + (index + 0.5) * _ROW,
            value=scale.at(found.value),
            low=scale.at(found.low),
            high=scale.at(found.high),
            label=speak(found.value),
        )
        for index, (name, candidate, found) in enumerate(estimates)
    )
    return Forest(
        title=title,
        summary="; ".join(f"{name} {with_interval(found, speak)}" for name, _, found in estimates),
        ticks=scale.ticks(),
        rows=rows,
        bottom=_TOP + len(rows) * _ROW,
        zero=zero,
    )

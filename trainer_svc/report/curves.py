"""Pictures of a run over its steps: losses, learning rate, throughput; and of record lengths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer_svc.report import words
from trainer_svc.report.axes import WIDTH, Scale, Tick, scale_of
from trainer_svc.report.model import Lengths, Report

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, WIDTH - 12, 34, 196
_HEIGHT = 236
_LABEL = 74
"""Half of what the label of the best step takes."""
_ABOVE = 34

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """One series: `style` names how it is drawn, `points` are for SVG's polyline."""

    name: str
    style: str
    points: str
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Mark:
    """A point to look at, and what it is: a label above it, at `label_x` in the middle."""

    x: float
    y: float
    label: str
    label_x: float
    label_y: float


@dataclass(frozen=True)
class Bar:
    """A bar that stands on the x axis."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A picture with two axes; `summary` says in words what it shows."""

    title: str
    summary: str
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    mark: Mark | None = None
    left: int = _LEFT
    right: int = _RIGHT
    top: int = _TOP
    bottom: int = _BOTTOM
    width: int = WIDTH
    height: int = _HEIGHT


def run_charts(report: Report) -> tuple[Chart, ...]:
    """Return the pictures of the run that there are points for."""
    rates = [(step, rate) for step, _, rate in report.training_curve]
    drawn = (
        loss_chart(report),
        _single("Learning rate", "", rates),
        _single("Throughput", "tokens per second", report.throughput, low=0.0),
        None if report.lengths is None else length_chart(report.lengths),
    )
    return tuple(chart for chart in drawn if chart is not None)


def loss_chart(report: Report) -> Chart | None:
    """Return the picture of both losses, with the best step marked; None without two points."""
    training = _finite([(step, loss) for step, loss, _ in report.training_curve])
    validation = _finite(report.validation_curve)
    every = [*training, *validation]
    if len(training) < 2 and len(validation) < 2:
        return None
    x, y = _scales(every, low=None)
    lines = []
    if training:
        lines.append(Line("Training", "training", _points(training, x, y)))
    if validation:
        dots = tuple((x.at(step), y.at(value)) for step, value in validation)
        lines.append(Line("Validation", "validation", _points(validation, x, y), dots))
    summary = "; ".join(_ran("training loss", training) + _ran("validation loss", validation))
    best = next((point for point in validation if point[0] == report.best_step), None)
    if best is not None:
        summary += f"; best after step {best[0]}: {words.loss(best[1])}"
    return Chart(
        title="Loss",
        summary=summary,
        x_name="step",
        y_name="nats per token",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        lines=tuple(lines),
        mark=None if best is None else _mark(best, x, y),
    )


def length_chart(lengths: Lengths) -> Chart:
    """Return the histogram of the training sequences' lengths."""
    end = lengths.width * len(lengths.counts)
    x = Scale(0, end, _LEFT, _RIGHT)
    y = scale_of([float(count) for count in lengths.counts], _BOTTOM, _TOP, low=0.0)
    return Chart(
        title="Length of the training sequences",
        summary=f"median {lengths.median:,}, longest {lengths.longest:,} tokens",
        x_name=f"tokens; the last bar has all up to {lengths.longest:,}"
        if lengths.longest >= end
        else "tokens",
        y_name="sequences",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        bars=tuple(_bars(lengths, x, y)),
    )


def _bars(lengths: Lengths, x: Scale, y: Scale) -> Iterator[Bar]:
    for index, count in enumerate(lengths.counts):
        first = index * lengths.width
        left, right = x.at(first), x.at(first + lengths.width)
        last = index == len(lengths.counts) - 1
        until = max(lengths.longest, first) if last else first + lengths.width - 1
        yield Bar(
            x=round(left + 0.5, 1),
            y=y.at(count),
            width=round(right - left - 1, 1),
            height=round(_BOTTOM - y.at(count), 1),
            label=f"{first:,} to {until:,} tokens: {count:,}",
        )


def _single(title: str, y_name: str, points: Points, low: float | None = 0.0) -> Chart | None:
    points = _finite(points)
    if len(points) < 2:
        return None
    x, y = _scales(points, low=low)
    return Chart(
        title=title,
        summary="; ".join(_ran(y_name, points)).strip(),
        x_name="step",
        y_name=y_name,
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        lines=(Line("", "single", _points(points, x, y)),),
    )


def _scales(points: Points, *, low: float | None) -> tuple[Scale, Scale]:
    last = max(max(step for step, _ in points), 1)
    x = Scale(0, last, _LEFT, _RIGHT)
    return x, scale_of([value for _, value in points], _BOTTOM, _TOP, low=low)


def _mark(best: tuple[int, float], x: Scale, y: Scale) -> Mark:
    at_x, at_y = x.at(best[0]), y.at(best[1])
    return Mark(
        x=at_x,
        y=at_y,
        label=f"best: {words.loss(best[1])}, step {best[0]:,}",
        label_x=min(max(at_x, _LEFT + _LABEL), _RIGHT - _LABEL),
        label_y=max(at_y - _ABOVE, _TOP + 8),
    )


def _points(points: Points, x: Scale, y: Scale) -> str:
    return " ".join(f"{x.at(step):g},{y.at(value):g}" for step, value in points)


def _finite(points: Points) -> list[tuple[int, float]]:
    """Leave out what cannot be drawn."""
    return [(step, value) for step, value in points if math.isfinite(value)]


def _ran(name: str, points: Points) -> list[str]:
    if not points:
        return []
    first, last = (words.number(points[index][1]) for index in (0, -1))
    return [f"{name} from {first} to {last}"]

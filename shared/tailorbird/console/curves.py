"""Curves as pictures: where each point and each tick of an SVG lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tailorbird.console import words
from tailorbird.console.history import History

_WIDTH, _HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 450, 14, 186
_TICKS = 5

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Tick:
    """A value on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """One series; `style` is a class of the style sheet, `points` those of a polyline."""

    name: str
    style: str
    points: str
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with two axes, in units of its viewBox; `summary` says it in words."""

    key: str
    title: str
    unit: str
    summary: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _RIGHT
    top: int = _TOP
    bottom: int = _BOTTOM


def charts(history: History, total_steps: int) -> tuple[Chart, ...]:
    """Return the pictures of a run that there are points for."""
    losses = (
        ("training", "training", history.training.points),
        ("validation", "validation", history.validation.points),
    )
    drawn = (
        _chart("loss", "Loss", "nats per token", losses, total_steps, from_zero=False),
        _chart("rate", "Learning rate", "", [("", "single", history.rates.points)], total_steps),
        _chart(
            "throughput",
            "Throughput",
            "tokens per second",
            [("", "single", history.throughput.points)],
            total_steps,
        ),
    )
    return tuple(chart for chart in drawn if chart is not None)


def _chart(
    key: str,
    title: str,
    unit: str,
    series: Iterable[tuple[str, str, Points]],
    total_steps: int,
    *,
    from_zero: bool = True,
) -> Chart | None:
    shown = [(name, style, _finite(points)) for name, style, points in series]
    shown = [each for each in shown if len(each[2]) > 1 or (each[2] and each[0])]
    values = [value for _, _, points in shown for _, value in points]
    if not any(len(points) > 1 for _, _, points in shown):
        return None
    last = max(total_steps, *(points[-1][0] for _, _, points in shown), 1)
    x = _Scale.over([0.0, float(last)], _LEFT, _RIGHT, exact=True)
    y = _Scale.over([0.0, *values] if from_zero else values, _BOTTOM, _TOP)
    lines = tuple(
        Line(
            name,
            style,
            " ".join(f"{x.at(step):g},{y.at(value):g}" for step, value in points),
            (x.at(points[-1][0]), y.at(points[-1][1])),
        )
        for name, style, points in shown
    )
    summary = "; ".join(
        f"{name or title.lower()} from {words.number(points[0][1])} to "
        f"{words.number(points[-1][1])} at step {points[-1][0]:,}"
        for name, _, points in shown
    )
    return Chart(key, title, unit, summary, lines, x.ticks(), y.ticks())


def _finite(points: Points) -> list[tuple[int, float]]:
    return [one for one in points if math.isfinite(one[1]) and abs(one[1]) < 1e100]


@dataclass(frozen=True, slots=True)
class _Scale:
    """A straight line from values onto units."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(
        cls, values: Sequence[float], start: float, end: float, *, exact: bool = False
    ) -> _Scale:
        """Return a scale with room for the values, to a round one at both ends unless `exact`."""
        low, high = min(values), max(values)
        if high - low < 1e-9 * max(abs(low), abs(high), 1e-12):
            high = low + max(abs(low), 1e-9)
        if exact:
            return cls(low, high, start, end)
        step = _round_step((high - low) / _TICKS)
        return cls(
            math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end
        )

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)

    def ticks(self) -> tuple[Tick, ...]:
        step = _round_step((self.high - self.low) / _TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [float(f"{index * step:.6g}") for index in range(first, last + 1)]
        return tuple(Tick(self.at(value), _label(value)) for value in values)


def _label(value: float) -> str:
    return "0" if value == 0 else words.number(value, 3)


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, ... times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(one * power for one in (1.0, 2.0, 5.0, 10.0) if one * power >= least * 0.999999)

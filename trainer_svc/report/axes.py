"""Where things lie in a picture: a scale from values to units of its viewBox, and round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer_svc.report.words import number

WIDTH = 420
"""Of every picture. A phone shows it nearly as wide, so that its text stays readable."""

_MOST = 1e100
_LEAST = 1e-100
_NEAR = 1e-9
"""Values that lie nearer to each other, as a share of them, are drawn as one."""


@dataclass(frozen=True)
class Tick:
    """A value on an axis: where it lies, and what it is called."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """A straight line from values `low` to `high` onto units `start` to `end`; low < high."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return where `value` lies, to a tenth of a unit; outside values lie on the border."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int = 5) -> tuple[Tick, ...]:
        """Return at most `most` + 1 ticks at round values."""
        step = _round_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = (index * step for index in range(first, last + 1))
        return tuple(Tick(self.at(value), _label(value, step)) for value in values)


def scale_of(values: list[float], start: float, end: float, *, low: float | None = None) -> Scale:
    """Return a scale that has room for `values`; with `low`, from there on.

    Values that no picture can show, above 1e100 or no numbers, are left out.
    """
    shown = [value for value in values if abs(value) <= _MOST] or [0.0]
    least = min(shown) if low is None else low
    most = max(shown)
    if most - least < max(abs(least) * _NEAR, _LEAST):
        most = least + (abs(least) if abs(least) > _LEAST else 1.0)
    step = _round_step((most - least) / 5)
    return Scale(
        low=math.floor(least / step + 1e-9) * step,
        high=math.ceil(most / step - 1e-9) * step,
        start=start,
        end=end,
    )


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, ... (times a power of ten) that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(
        factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * 0.999999
    )


def _label(value: float, step: float) -> str:
    if abs(value) < step / 2:
        return "0"
    if 1e-3 <= step < 1:
        return f"{value:.{math.ceil(-math.log10(step) - 1e-9)}f}".replace("-", "−")
    return number(float(f"{value:.6g}"))

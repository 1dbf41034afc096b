"""Draws a run's medians as an SVG of small bar charts, one measure of one cell each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Medians = Mapping[str, Mapping[str, Mapping[str, float | None]]]

_NAMES = {"ours": "Tailorbird", "peer": "vLLM's server", "ceiling": "engine alone"}
_COLOURS = {"ours": "#0f766e", "peer": "#94a3b8", "ceiling": "#cbd5e1"}
_MORE, _LESS = "more is better", "less is better"
_PANEL_WIDTH, _PANEL_HEIGHT, _MARGIN, _HEAD = 400, 132, 20, 64
_LABEL_WIDTH, _BAR_WIDTH, _BAR_HEIGHT, _BAR_STEP = 96, 216, 18, 25


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: a bar for each target, in the order of `_NAMES`."""

    title: str
    better: str
    cell: str
    measure: str


PANELS = (
    Panel("Tokens/s, base, 32 streams", _MORE, "base", "tokens_per_second"),
    Panel("Tokens/s, 8 adapters, 32 streams", _MORE, "8_adapters", "tokens_per_second"),
    Panel("Tokens/s, 8 adapters, cap 64", _MORE, "8_adapters_cap_64", "tokens_per_second"),
    Panel("Tokens/s, 64 adapters on 16 slots", _MORE, "oversubscribed", "tokens_per_second"),
    Panel("First token, 8 adapters, median", _LESS, "8_adapters", "ttft_p50"),
    Panel("Between messages, 8 adapters, p99", _LESS, "8_adapters", "itl_p99"),
    Panel("First token, 64 on 16 slots, p99", _LESS, "oversubscribed", "ttft_p99"),
    Panel("First token beside a flood", _LESS, "flood", "ttft_p50"),
)


def draw(medians: Medians, caption: str) -> str:
    """Return the SVG; a panel whose cell was not run is left out."""
    panels = [panel for panel in PANELS if _bars(medians, panel)]
    rows = (len(panels) + 1) // 2
    width = 2 * _PANEL_WIDTH + 3 * _MARGIN
    height = _HEAD + rows * (_PANEL_HEIGHT + _MARGIN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" role="img" '
        f'aria-label="{escape(caption, {chr(34): "&quot;"})}">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        _text(
            _MARGIN, 28, "Serving: Tailorbird and vLLM's OpenAI server", 17, "#0f172a", bold=True
        ),
        _text(_MARGIN, 48, caption, 12, "#64748b"),
    ]
    for number, panel in enumerate(panels):
        x = _MARGIN + number % 2 * (_PANEL_WIDTH + _MARGIN)
        y = _HEAD + number // 2 * (_PANEL_HEIGHT + _MARGIN)
        parts += _panel(x, y, panel, _bars(medians, panel))
    return "\n".join([*parts, "</svg>", ""])


def shown(value: float, measure: str) -> str:
    """Return a value as it stands beside its bar."""
    if measure == "tokens_per_second":
        return f"{value:,.0f}"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:,.0f} ms"


def _bars(medians: Medians, panel: Panel) -> list[tuple[str, float]]:
    cell = medians.get(panel.cell, {})
    found = [(name, cell.get(name, {}).get(panel.measure)) for name in _NAMES]
    return [(name, value) for name, value in found if value is not None]


def _panel(x: int, y: int, panel: Panel, bars: Sequence[tuple[str, float]]) -> list[str]:
    longest = max(value for _, value in bars) or 1.0
    parts = [
        f'<rect x="{x}" y="{y}" width="{_PANEL_WIDTH}" height="{_PANEL_HEIGHT}" rx="6" '
        'fill="#f8fafc" stroke="#e2e8f0"/>',
        _text(x + 14, y + 25, panel.title, 13, "#0f172a", bold=True),
        _text(x + _PANEL_WIDTH - 14, y + 25, panel.better, 11, "#64748b", anchor="end"),
    ]
    for number, (name, value) in enumerate(bars):
        top = y + 42 + number * _BAR_STEP
        width = max(2.0, _BAR_WIDTH * value / longest)
        left = x + 14 + _LABEL_WIDTH
        parts += [
            _text(x + 14, top + 13, _NAMES[name], 12, "#334155"),
            f'<rect x="{left}" y="{top}" width="{width:.1f}" height="{_BAR_HEIGHT}" rx="3" '
            f'fill="{_COLOURS[name]}"/>',
            _text(left + width + 6, top + 13, shown(value, panel.measure), 12, "#0f172a"),
        ]
    return parts


def _text(
    x: float, y: float, text: str, size: int, colour: str, *, bold: bool = False, anchor: str = ""
) -> str:
    extra = (' font-weight="600"' if bold else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{extra}>{escape(text)}</text>'
    )

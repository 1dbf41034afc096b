"""A job on a terminal while it runs: how far it is, its losses as curves, its data, its speed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tailorbird.cli.contact import duration
from tailorbird.cli.watch import JobView, Words, state_name
from tailorbird.tuning.v1 import job_pb2

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 40
_BAR_WIDTH = 32


def sparkline(values: Sequence[float], width: int = _CURVE_WIDTH) -> str:
    """Draw a curve in one line of at most `width` characters, from its lowest to its highest value.

    Neighbours are averaged where there are more values than characters. What is no number is left
    out.
    """
    numbers = [value for value in values if math.isfinite(value)]
    count = min(width, len(numbers))
    if not count:
        return ""
    edges = [index * len(numbers) // count for index in range(count + 1)]
    means = [
        math.fsum(numbers[start:end]) / (end - start) for start, end in itertools.pairwise(edges)
    ]
    low, high = min(means), max(means)
    steps = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * steps)] for mean in means)


@dataclass(slots=True)
class Curve:
    """A loss at the steps where it was told."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Take one more value; what was told of this step and of later ones is no more."""
        self.back_to(step - 1)
        self.steps.append(step)
        self.values.append(value)

    def back_to(self, step: int) -> None:
        """Forget what lies after a step: a run that goes on from there takes it again."""
        while self.steps and self.steps[-1] > step:
            self.steps.pop()
            self.values.pop()


class JobPanel:
    """One job, drawn anew with each of its events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._loss, self._validation = Curve(), Curve()
        self._data: list[tuple[str, str]] = []

    def follow(self, label: str, events: Iterable[job_pb2.JobEvent]) -> JobView:
        """Show a job's events as they come and return what is known after the last one."""
        view, words = JobView(), Words(self._console, label)
        with Live(self._drawn(label, view), console=self._console, auto_refresh=False) as live:
            for event in events:
                view = view.after(event)
                self._take(event)
                words.tell(event, view)
                live.update(self._drawn(label, view), refresh=True)
        return view

    def _take(self, event: job_pb2.JobEvent) -> None:
        match event.WhichOneof("event"):
            case "step_progress":
                self._loss.add(event.step_progress.step, event.step_progress.loss)
            case "evaluation":
                self._validation.add(event.evaluation.step, event.evaluation.validation_loss)
            case "resumed":
                for curve in (self._loss, self._validation):
                    curve.back_to(event.resumed.resumed_from_step)
            case "prepared":
                self._data = list(_data(event.prepared))

    def _drawn(self, label: str, view: JobView) -> RenderableType:
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(label, style="bold"),
            Text(state_name(view.state)),
            ProgressBar(view.total_steps or None, view.step, width=_BAR_WIDTH, pulse=False)
            if view.total_steps
            else Text(""),
            Text(f"{view.step:,}/{view.total_steps:,} steps" if view.total_steps else ""),
        )
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim", no_wrap=True)
        for name, value in self._facts(view):
            facts.add_row(name, Text(value))
        return Group(head, facts)

    def _facts(self, view: JobView) -> Iterable[tuple[str, str]]:
        if view.loss is not None:
            yield "loss", f"{view.loss:.3f}  {self._curve(self._loss)}"
        if view.validation_loss is not None:
            words = [f"{view.validation_loss:.3f}", self._curve(self._validation)]
            if self._validation.steps:
                lowest, at = min(zip(self._validation.values, self._validation.steps, strict=True))
                words.append(f"lowest {lowest:.3f} at step {at:,}")
            yield "validation", "  ".join(words)
        if view.state == job_pb2.JOB_STATE_RUNNING and view.eta_seconds is not None:
            yield (
                "speed",
                f"{view.tokens_per_second:,.0f} tok/s · {duration(view.eta_seconds)} left",
            )
        yield from self._data

    def _curve(self, curve: Curve) -> str:
        return "" if self._console.options.ascii_only else sparkline(curve.values)


def _data(prepared: job_pb2.JobEvent.Prepared) -> Iterable[tuple[str, str]]:
    yield "training data", _account(prepared.training)
    if prepared.HasField("validation"):
        yield "validation data", _account(prepared.validation)


def _account(report: job_pb2.DataReport) -> str:
    dropped = (
        (report.dropped_too_long, "dropped as too long"),
        (report.dropped_nothing_to_train, "dropped with nothing to train"),
        (report.truncated, "cut"),
    )
    return " · ".join(
        [
            f"{report.kept:,} of {report.records:,} records kept",
            *(f"{count:,} {what}" for count, what in dropped if count),
            f"{report.trained_tokens:,} tokens trained an epoch",
        ]
    )

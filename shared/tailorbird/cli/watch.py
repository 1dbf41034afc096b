"""A job's events as a person reads them: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from tailorbird.call_error import CallError
from tailorbird.cli.judgement import judgement_lines
from tailorbird.cli.kept import left_out
from tailorbird.cli.output import last_part, plain
from tailorbird.client import is_terminal
from tailorbird.tuning.v1 import job_pb2

_LINE_INTERVAL = 5.0


def state_name(state: job_pb2.JobState.ValueType) -> str:
    """Say a state: "running"."""
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()


@dataclass(frozen=True, slots=True)
class JobView:
    """What is known of a job after some of its events."""

    state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_QUEUED
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    validation_loss: float | None = None
    tokens_per_second: float = 0.0
    eta_seconds: float | None = None
    version: str = ""
    promoted: bool = False
    promotion_refusal: str = ""
    error: CallError | None = None

    def after(self, event: job_pb2.JobEvent) -> JobView:
        """Return the view after one more event."""
        match event.WhichOneof("event"):
            case "state_changed":
                changed = event.state_changed
                failed = changed.HasField("error")
                return replace(
                    self,
                    state=changed.state,
                    error=CallError.from_status(changed.error) if failed else None,
                )
            case "prepared":
                return replace(self, total_steps=event.prepared.total_steps)
            case "step_progress":
                progress = event.step_progress
                return replace(
                    self,
                    step=progress.step,
                    total_steps=progress.total_steps,
                    loss=progress.loss,
                    tokens_per_second=progress.tokens_per_second,
                    eta_seconds=progress.eta_seconds,
                )
            case "evaluation":
                return replace(self, validation_loss=event.evaluation.validation_loss)
            case "resumed":
                return replace(self, step=event.resumed.resumed_from_step)
            case "published":
                published = event.published
                return replace(
                    self,
                    version=published.version,
                    promoted=published.promoted,
                    promotion_refusal=published.promotion_refusal,
                )
            case _:
                return self

    @property
    def succeeded(self) -> bool:
        """Whether the job has ended well."""
        return self.state == job_pb2.JOB_STATE_SUCCEEDED

    def figures(self) -> str:
        """Say the latest figures in a few words."""
        words = []
        if self.total_steps:
            words.append(f"step {self.step}/{self.total_steps}")
        if self.loss is not None:
            words.append(f"loss {self.loss:.3f}")
        if self.validation_loss is not None:
            words.append(f"validation {self.validation_loss:.3f}")
        if self.state == job_pb2.JOB_STATE_RUNNING and self.eta_seconds is not None:
            words.append(f"{self.tokens_per_second:,.0f} tok/s")
            words.append(f"{self.eta_seconds:.0f} s left")
        return " · ".join(words)


class Heard:
    """The events of a watch, and what is known after those that were taken of it."""

    def __init__(self, events: Iterable[job_pb2.JobEvent]) -> None:
        self.view = JobView()
        self._events = events

    def __iter__(self) -> Iterator[job_pb2.JobEvent]:
        for event in self._events:
            self.view = self.view.after(event)
            yield event


class OfData:
    """What a job's history says of its data, each once.

    A job that is taken up again, by whoever follows a lost trainer, is told all of it again.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def new(self, event: job_pb2.JobEvent) -> list[str]:
        """Return the sentences of an event that none before it had."""
        sentences: list[str] = []
        match event.WhichOneof("event"):
            case "warning":
                sentences = [f"warning: {event.warning.reason}: {event.warning.message}"]
            case "prepared":
                sentences = list(left_out(event.prepared))
        found = [sentence for sentence in sentences if sentence not in self._said]
        self._said.update(found)
        return found


class Words:
    """What is said of a job beside its figures: faults of its data, pauses, its judgement."""

    def __init__(self, console: Console, label: str) -> None:
        self._console = console
        self._label = label
        self._of_data = OfData()

    def tell(self, event: job_pb2.JobEvent, view: JobView) -> bool:
        """Say what an event has to say, after which `view` is known; False for nothing."""
        kind = event.WhichOneof("event")
        for sentence in self._of_data.new(event):
            self.say(sentence)
        if kind == "judged":
            self.say("judged:")
            self._console.print(judgement_lines(event.judged))
        elif kind == "resumed":
            self.say(f"goes on from step {event.resumed.resumed_from_step}")
        elif view.state == job_pb2.JOB_STATE_PAUSED and kind == "state_changed":
            self.say(paused(view))
        else:
            return kind in ("warning", "prepared")
        return True

    def say(self, text: str) -> None:
        """Print one line of the job."""
        self._console.print(Text(plain(f"{self._label}  {text}")), soft_wrap=True)


class JobBars:
    """One bar a job, on a terminal; a line now and then for each, elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.fields[label]}", style="bold"),
            TextColumn("{task.fields[state]:<10}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> JobBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def follow(self, label: str, events: Iterable[job_pb2.JobEvent]) -> JobView:
        """Show a job's events as they come and return what is known after the last one."""
        view, words = JobView(), Words(self._progress.console, label)
        task = self._progress.add_task("", label=label, total=None, state="queued", figures="")
        said_at = 0.0
        for event in events:
            view = view.after(event)
            self._advance(task, view)
            if words.tell(event, view) or self._console.is_terminal:
                continue
            changed = event.HasField("state_changed")
            if changed or time.monotonic() - said_at > _LINE_INTERVAL:
                said_at = time.monotonic()
                words.say(f"{state_name(view.state):<10} {view.figures()}")
        return view

    def _advance(self, task: TaskID, view: JobView) -> None:
        self._progress.update(
            task,
            completed=view.step,
            total=view.total_steps or None,
            state=state_name(view.state),
            figures=view.figures(),
        )


def paused(view: JobView) -> str:
    """Say that a job is paused, and why if nobody asked for it."""
    why = f": {view.error.reason}: {view.error.message}" if view.error else ""
    return f"paused{why}; it goes on after: tailorbird jobs resume"


def unwatched(view: JobView, thing: str, job: str, watch: str) -> str:
    """Say what becomes of a job or sweep that is watched no longer; `watch` is the command."""
    if view.state == job_pb2.JOB_STATE_PAUSED:
        return f"the {thing} stays {state_name(view.state)}: tailorbird jobs resume {job}"
    return f"the {thing} goes on: {watch}"


def next_step(view: JobView) -> str:
    """Say what may be done about a version that is published and not promoted; "" for others."""
    if not view.succeeded or not view.version or view.promoted:
        return ""
    return (
        f"see why: tailorbird adapters report {view.version} --open\n"
        f"or let it take the traffic: tailorbird adapters promote {view.version}"
    )


def outcome(view: JobView) -> str:
    """Say how a job that has ended did, in one line."""
    if view.error is not None and is_terminal(view.state):
        return f"failed: {view.error.reason}: {view.error.message}"
    if not is_terminal(view.state):
        return f"the trainer stopped telling of the job while it was {state_name(view.state)}"
    if not view.succeeded:
        return state_name(view.state)
    why = f": {view.promotion_refusal}" if view.promotion_refusal else ""
    route = "promoted" if view.promoted else f"not promoted{why}"
    return f"published {last_part(view.version)}, {route}"

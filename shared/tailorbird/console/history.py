"""What a job's events say so far: its curves, and what else happened."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from tailorbird.call_error import CallError
from tailorbird.console import words
from tailorbird.tuning.v1 import job_pb2

_MOST_POINTS = 1200
"""Of one curve; where there are more, every second one is left out."""
_MOST_HAPPENINGS = 200


@dataclass
class Curve:
    """Values over steps, ascending, thinned where there are many."""

    points: list[tuple[int, float]] = field(default_factory=list)
    _every: int = 1
    _seen: int = 0

    def add(self, step: int, value: float) -> None:
        """Add the value after `step`; of a step taken again the last one counts."""
        self.back_to(step - 1)
        self._seen += 1
        if self._seen % self._every == 0 or not self.points:
            self.points.append((step, value))
        if len(self.points) > _MOST_POINTS:
            self.points = self.points[::2]
            self._every *= 2

    def back_to(self, step: int) -> None:
        """Forget what is after `step`."""
        while self.points and self.points[-1][0] > step:
            self.points.pop()


@dataclass(frozen=True, slots=True)
class Happening:
    """One event for a list. `kind` is "warning", "bad", "good" or ""."""

    sequence: int
    time: Timestamp
    what: str
    told: str
    kind: str = ""


class History:
    """A job's events, taken one by one."""

    def __init__(self) -> None:
        self.training = Curve()
        self.validation = Curve()
        self.rates = Curve()
        self.throughput = Curve()
        self.newest: job_pb2.JobEvent.StepProgress | None = None
        self.prepared: job_pb2.JobEvent.Prepared | None = None
        self.happenings: deque[Happening] = deque(maxlen=_MOST_HAPPENINGS)
        self.left_out = 0
        """How many happenings are older than those that are kept."""

    def add(self, event: job_pb2.JobEvent) -> None:
        """Take the next event."""
        match event.WhichOneof("event"):
            case "step_progress":
                self._step(event.step_progress)
                return
            case "resumed":
                for curve in (self.training, self.validation, self.rates, self.throughput):
                    curve.back_to(event.resumed.resumed_from_step)
            case "evaluation":
                if not event.evaluation.version:
                    self.validation.add(event.evaluation.step, event.evaluation.validation_loss)
            case "prepared":
                self.prepared = event.prepared
            case None:
                return
        what, told, kind = _told(event)
        self.left_out += len(self.happenings) == _MOST_HAPPENINGS
        self.happenings.append(Happening(event.sequence, event.time, what, told, kind))

    def _step(self, progress: job_pb2.JobEvent.StepProgress) -> None:
        self.newest = progress
        self.training.add(progress.step, progress.loss)
        self.rates.add(progress.step, progress.learning_rate)
        self.throughput.add(progress.step, progress.tokens_per_second)


_KINDS = {
    job_pb2.JOB_STATE_FAILED: "bad",
    job_pb2.JOB_STATE_SUCCEEDED: "good",
}


def _told(event: job_pb2.JobEvent) -> tuple[str, str, str]:
    """Return what an event is, what it says, and its kind."""
    match event.WhichOneof("event"):
        case "state_changed":
            changed = event.state_changed
            why = ""
            if changed.HasField("error"):
                error = CallError.from_status(changed.error)
                why = f"{error.reason}: {error.message}"
            return words.state(changed.state), why, _KINDS.get(changed.state, "")
        case "prepared":
            prepared = event.prepared
            told = (
                f"{prepared.total_steps:,} steps, {prepared.trainable_parameters:,} parameters, "
                f"{prepared.training.kept:,} of {prepared.training.records:,} records"
            )
            return "prepared", told, ""
        case "evaluation":
            return "evaluation", _evaluation(event.evaluation), ""
        case "checkpoint_saved":
            return "checkpoint", f"after step {event.checkpoint_saved.step:,}", ""
        case "resumed":
            resumed = event.resumed
            return "resumed", f"from step {resumed.resumed_from_step:,}", ""
        case "published":
            published = event.published
            route = "promoted" if published.promoted else "not promoted"
            why = f": {published.promotion_refusal}" if published.promotion_refusal else ""
            return "published", f"{words.last_part(published.version)}, {route}{why}", "good"
        case "warning":
            return "warning", f"{event.warning.reason}: {event.warning.message}", "warning"
        case "judged":
            decision = event.judged.decision
            return "judged", f"{decision.reason}: {decision.message}", ""
        case "trial_reached":
            trial = event.trial_reached
            return "trial", f"{trial.trial} at rung {trial.rung}", ""
        case "rung_decided":
            going_on = ", ".join(map(str, event.rung_decided.going_on))
            return "rung", f"{event.rung_decided.rung}: trials {going_on} go on", ""
    return "event", "", ""


def _evaluation(evaluation: job_pb2.JobEvent.Evaluation) -> str:
    loss = words.number(evaluation.validation_loss)
    if evaluation.version:
        return f"validation loss {loss} of {words.last_part(evaluation.version)}"
    whose = f"after step {evaluation.step:,}" if evaluation.step else "of the base"
    return f"validation loss {loss} {whose}"

"""How fast seven jobs step while an eighth, in the same group, is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise

from bench.judgement import chats
from bench.judgement.trainer import TENANT, Trainer, seconds
from bench.judgement.uploads import HELD_OUT
from bench.judgement.versions import demo_spec
from bench.rollout.watching import Seen, Watcher
from bench.serving.targets import say
from examples.demo.tenants import SUPPORT
from tailorbird.tuning.v1 import job_pb2

_MEMBERS = 7
_EPOCHS = 100
"""Of the seven: more than they get to."""
_EIGHTH_RECORDS = 100
_NEVER = 10_000
_ALONE_SECONDS = 10.0
"""How long the seven are watched when the eighth is gone."""
_LIMIT_SECONDS = 600.0

Points = Sequence[tuple[float, int]]
"""When a job had taken how many steps: seconds, steps; in order."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Steps a second of all seven together."""

    before: float
    """While the eighth trained beside them."""
    during: float
    """From the eighth's last step until its judgement was there."""
    after: float
    """When it was gone."""
    judging_seconds: float


def rate(jobs: Sequence[Points], start: float, stop: float) -> float:
    """Return the steps a second of all jobs together from `start` to `stop`.

    Between two points a job's steps are taken to be even.
    """
    return sum(_steps(points, stop) - _steps(points, start) for points in jobs) / (stop - start)


def measure(trainer: Trainer) -> Beside:
    """Let seven jobs train for ever, an eighth come and go, and end them; BenchFailed."""
    data, _ = trainer.upload("beside", chats.lines(chats.training(SUPPORT)))
    few, _ = trainer.upload("beside-few", chats.lines(chats.training(SUPPORT)[:_EIGHTH_RECORDS]))
    held, _ = trainer.upload("beside-held", chats.lines(chats.held_out(SUPPORT, HELD_OUT)))
    with ExitStack() as stack:
        names = [trainer.create(_endless(data, number))[0] for number in range(_MEMBERS)]
        for name in names:
            stack.callback(trainer.client.cancel_job, name)
        members = [_watched(trainer, stack, name) for name in names]
        for member in members:
            _wait(trainer, member, _has_stepped, "its first steps")
        spec = demo_spec(SUPPORT, few, held, "eighth")
        spec.promotion_policy = job_pb2.PROMOTION_POLICY_MANUAL
        spec.hyperparameters.epochs = 1
        # Its validation losses would make the seven's steps slower before.
        spec.hyperparameters.evaluation_interval = _NEVER
        eighth = _watched(trainer, stack, trainer.create(spec)[0])
        _wait(trainer, eighth, lambda seen: _judged_at(seen) is not None, "its judgement")
        began = _entered(eighth.seen, job_pb2.JOB_STATE_RUNNING)
        ended = _entered(eighth.seen, job_pb2.JOB_STATE_EVALUATING)
        judged = _judged_at(eighth.seen) or ended
        for member in members:
            _wait(trainer, member, _steps_past(judged + _ALONE_SECONDS), "its steps alone")
        points = [_points(member.seen) for member in members]
    found = Beside(
        before=rate(points, began, ended),
        during=rate(points, ended, judged),
        after=rate(points, judged, judged + _ALONE_SECONDS),
        judging_seconds=judged - ended,
    )
    say(
        f"seven jobs: {found.before:.1f} steps/s with an eighth, {found.during:.1f} while it is "
        f"judged, {found.after:.1f} alone"
    )
    return found


def told(found: Beside) -> dict[str, float]:
    """Return the figures with the shares that are made of them."""
    return {
        **asdict(found),
        "over_before": found.during / found.before,
        "over_after": found.during / found.after,
    }


def _endless(data: str, number: int) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        training_dataset=data,
        adapter=f"{TENANT}/adapters/member-{number}",
        promotion_policy=job_pb2.PROMOTION_POLICY_MANUAL,
        hyperparameters=job_pb2.Hyperparameters(
            learning_rate=1e-3, epochs=_EPOCHS, batch_tokens=640, seed=number
        ),
    )


def _watched(trainer: Trainer, stack: ExitStack, name: str) -> Watcher:
    watcher = Watcher(trainer.address, trainer.token, name)
    stack.callback(watcher.close)
    return watcher


def _wait(
    trainer: Trainer, watcher: Watcher, wanted: Callable[[Sequence[Seen]], bool], what: str
) -> None:
    watcher.wait_for(wanted, what, _LIMIT_SECONDS, trainer.process)


def _points(seen: Sequence[Seen]) -> list[tuple[float, int]]:
    return [
        (seconds(one.event), one.event.step_progress.step)
        for one in seen
        if one.event.HasField("step_progress")
    ]


def _has_stepped(seen: Sequence[Seen]) -> bool:
    return len(_points(seen)) > 1


def _steps_past(moment: float) -> Callable[[Sequence[Seen]], bool]:
    return lambda seen: any(at > moment for at, _ in _points(seen[-1:]))


def _entered(seen: Sequence[Seen], state: job_pb2.JobState.ValueType) -> float:
    return next(seconds(one.event) for one in seen if one.event.state_changed.state == state)


def _judged_at(seen: Sequence[Seen]) -> float | None:
    return next((seconds(one.event) for one in seen if one.event.HasField("judged")), None)


def _steps(points: Points, moment: float) -> float:
    """Return how many steps had been taken at a moment; ValueError if it is not between points."""
    for (before, taken), (after, later) in pairwise(points):
        if before <= moment <= after:
            return taken + (later - taken) * (moment - before) / ((after - before) or 1.0)
    raise ValueError(f"nothing is known of the moment {moment}")

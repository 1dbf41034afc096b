"""A job as a terminal shows it."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from tailorbird.cli.live import Curve, JobPanel, sparkline
from tailorbird.tuning.v1 import job_pb2
from tests.integration.scripted_services import a_job_that_succeeds, event, state, step


def _shown(events: list[job_pb2.JobEvent], encoding: str = "utf-8") -> list[str]:
    """Return what stands on the terminal in the end, as it was drawn last."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(
        file=file, width=120, force_terminal=True, color_system=None, legacy_windows=False
    )
    JobPanel(console).follow("acme", events)
    file.seek(0)
    *_, last = file.read().removesuffix("\x1b[?25h").split("\x1b[2K")
    return [line.rstrip() for line in last.splitlines()]


def _told(events: list[job_pb2.JobEvent]) -> str:
    return "\n".join(_shown(events))


PREPARED = job_pb2.JobEvent.Prepared(
    total_steps=4,
    training=job_pb2.DataReport(
        records=60, kept=57, dropped_too_long=3, dropped_lines=[1, 2, 3], truncated=2,
        truncated_lines=[4, 5], trained_tokens=12000,
    ),
    validation=job_pb2.DataReport(records=10, kept=10, trained_tokens=900),
)  # fmt: skip


def _evaluated(sequence: int, at: int, loss: float) -> job_pb2.JobEvent:
    found = job_pb2.JobEvent.Evaluation(step=at, validation_loss=loss)
    return event(sequence, evaluation=found)


RUNNING = [
    state(1, job_pb2.JOB_STATE_RUNNING),
    event(2, prepared=PREPARED),
    _evaluated(3, 0, 3.0),
    step(4, 1),
    step(5, 2),
    _evaluated(6, 2, 1.0),
    step(7, 3),
    _evaluated(8, 3, 2.0),
]


def test_a_running_job_shows_its_curves_its_speed_and_its_data() -> None:
    told = _told(RUNNING)
    assert "acme  running  " in told
    assert "3/4 steps" in told
    assert "loss             0.667  █▃▁\n" in told
    assert "validation       2.000  █▁▅  lowest 1.000 at step 2\n" in told
    assert "speed            1,000 tok/s · 7 s left\n" in told
    assert (
        "training data    57 of 60 records kept · 3 dropped as too long · 2 cut"
        " · 12,000 tokens trained an epoch\n"
    ) in told
    assert told.endswith("validation data  10 of 10 records kept · 900 tokens trained an epoch")


def test_what_is_taken_again_is_drawn_once() -> None:
    resumed = job_pb2.JobEvent.Resumed(resumed_from_step=1, lease_epoch=2)
    told = _told([*RUNNING, event(9, resumed=resumed), step(10, 2)])
    assert "2/4 steps" in told
    assert "loss             1.000  █▁\n" in told
    assert "validation       2.000  ▁  lowest 3.000 at step 0\n" in told
    told = _told([_evaluated(1, 2, 1.0), event(2, resumed=resumed)])
    assert told.endswith("validation  1.000")


def test_an_ended_job_has_no_speed() -> None:
    told = _told(a_job_that_succeeds())
    assert "acme  succeeded  " in told
    assert "4/4 steps" in told
    assert "tok/s" not in told


def test_what_is_said_of_the_job_stands_above_it() -> None:
    warning = job_pb2.JobEvent.Warning(reason="LEAKAGE", message="3 records are in both")
    shown = _shown([event(1, warning=warning), *RUNNING])
    assert shown[0].startswith("acme  running")
    file = io.StringIO()
    JobPanel(Console(file=file, width=120, force_terminal=True)).follow(
        "acme", [event(1, warning=warning)]
    )
    assert "acme  warning: LEAKAGE: 3 records are in both\n" in file.getvalue()


def test_a_terminal_without_blocks_shows_figures_alone() -> None:
    shown = "\n".join(_shown(RUNNING, "ascii"))
    assert "loss             0.667\n" in shown


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        ([math.nan], ""),
        ([2.0], "▁"),
        ([2.0, 2.0], "▁▁"),
        ([0.0, math.inf, 7.0], "▁█"),
        ([*range(8)], "▁▂▃▄▅▆▇█"),
        ([0.0, 0.0, 7.0, 7.0, 3.0, 3.0], "▁█▄"),
    ],
)
def test_a_curve_takes_one_line(values: list[float], drawn: str) -> None:
    assert sparkline(values, 3 if len(values) == 6 else 8) == drawn


def test_a_curve_of_many_steps_is_no_wider() -> None:
    assert len(sparkline([1.0 / (1 + each) for each in range(10_000)])) == 40


def test_a_curve_forgets_what_is_taken_again() -> None:
    curve = Curve()
    for at in (1, 2, 3):
        curve.add(at, float(at))
    curve.add(2, 9.0)
    assert (curve.steps, curve.values) == ([1, 2], [1.0, 9.0])

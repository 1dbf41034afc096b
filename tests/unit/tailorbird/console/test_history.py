"""What a job's events come to: curves, happenings, and pictures of them."""

from __future__ import annotations

import re

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tailorbird.console import words
from tailorbird.console.curves import charts
from tailorbird.console.history import Curve, History
from tailorbird.tuning.v1 import job_pb2

Event = job_pb2.JobEvent


def _step(number: int, loss: float = 1.0) -> Event:
    return Event(step_progress=Event.StepProgress(step=number, loss=loss, tokens_per_second=10))


def test_steps_that_are_taken_again_take_the_place_of_the_lost_ones() -> None:
    history = History()
    for number in range(1, 11):
        history.add(_step(number))
    history.add(Event(resumed=Event.Resumed(resumed_from_step=6)))
    history.add(_step(7, 2.0))
    assert history.training.points == [*((number, 1.0) for number in range(1, 7)), (7, 2.0)]
    assert [one.what for one in history.happenings] == ["resumed"]


def test_a_long_run_is_thinned_to_what_a_picture_shows() -> None:
    curve = Curve()
    for number in range(100_000):
        curve.add(number, float(number))
    assert 500 < len(curve.points) <= 1200
    assert curve.points == sorted(curve.points)
    assert curve.points[-1][0] > 99_000


def test_another_version_s_loss_is_no_point_of_this_one_s_curve() -> None:
    history = History()
    history.add(Event(evaluation=Event.Evaluation(step=0, validation_loss=2.0, version="t/v/1")))
    assert history.validation.points == []
    assert history.happenings[0].told == "validation loss 2 of 1"


def test_happenings_are_kept_up_to_a_number_and_the_rest_counted() -> None:
    history = History()
    for number in range(250):
        history.add(Event(checkpoint_saved=Event.CheckpointSaved(step=number)))
    assert (len(history.happenings), history.left_out) == (200, 50)
    assert history.happenings[0].told == "after step 50"


def test_an_event_of_a_later_release_is_passed_over() -> None:
    history = History()
    history.add(Event(sequence=1))
    assert not history.happenings


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_what_cannot_be_drawn_is_left_out(value: float) -> None:
    history = History()
    for number, loss in enumerate([1.0, value, 0.5, 0.5], 1):
        history.add(_step(number, loss))
    drawn = charts(history, 4)
    assert [chart.key for chart in drawn] == ["loss", "rate", "throughput"]
    for chart in drawn:
        for line in chart.lines:
            assert re.fullmatch(r"[\d.]+,[\d.]+( [\d.]+,[\d.]+)*", line.points)
        assert 2 <= len(chart.y_ticks) <= 7


def test_one_point_is_no_curve() -> None:
    history = History()
    history.add(_step(1))
    assert charts(history, 10) == ()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("tenants/a/jobs/b", "/tenants/a/jobs/b"),
        ("/evil.example", "#"),
        ("tenants/a/../b", "#"),
        ("javascript:alert(1)", "#"),
        ("", "#"),
    ],
)
def test_only_a_resource_s_name_is_led_to(name: str, place: str) -> None:
    assert words.place(name) == place


def test_what_a_browser_would_act_on_is_written_out() -> None:
    assert words.printable("a\u202eb\x1b[2J\nשלום") == "a\\u202eb\\x1b[2J\nשלום"


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (5.3e-4, "5.30e-4"), (0.4779, "0.4779"), (3150.4, "3,150"), (float("nan"), "–")],
)
def test_figures_read_well(value: float, said: str) -> None:
    assert words.number(value) == said


def test_a_state_of_a_later_release_has_a_name() -> None:
    assert words.state(99) == "unknown (99)"  # type: ignore[arg-type]
    assert words.when(Timestamp()) == "–"

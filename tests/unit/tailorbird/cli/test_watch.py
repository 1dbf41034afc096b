"""What is known of a job after each of its events."""

from __future__ import annotations

import io

from rich.console import Console

from tailorbird.cli.watch import JobBars, JobView, next_step, outcome
from tailorbird.rpc.judgement import judgement_to_proto
from tailorbird.rpc.status import stored_status
from tailorbird.tuning.v1 import job_pb2
from tests.integration.scripted_services import VERSIONS, a_job_that_succeeds, event, state
from tests.unit.trainer_svc.golden import sample


def _follow(events: list[job_pb2.JobEvent]) -> tuple[JobView, str]:
    console = Console(file=io.StringIO(), width=200)
    with JobBars(console) as bars:
        view = bars.follow("acme", events)
    assert isinstance(console.file, io.StringIO)
    return view, console.file.getvalue()


def test_events_add_up() -> None:
    view, _ = _follow(a_job_that_succeeds())
    assert view.succeeded
    assert (view.step, view.total_steps) == (4, 4)
    assert view.validation_loss == 0.25
    assert view.version == VERSIONS[0]
    assert outcome(view) == "published 20261122T100000-job-1, promoted"


def test_lines_tell_of_states_warnings_and_resumptions() -> None:
    warning = job_pb2.JobEvent.Warning(reason="LEAKAGE", message="3 records are in both")
    _, text = _follow(
        [
            state(1, job_pb2.JOB_STATE_RUNNING),
            event(2, warning=warning),
            event(3, resumed=job_pb2.JobEvent.Resumed(resumed_from_step=2, lease_epoch=2)),
            state(4, job_pb2.JOB_STATE_CANCELLED),
        ]
    )
    assert [line.split()[1] for line in text.splitlines()] == [
        "running",
        "warning:",
        "goes",
        "cancelled",
    ]
    assert "goes on from step 2" in text


def test_what_is_told_again_after_a_lost_trainer_is_said_once() -> None:
    warnings = [job_pb2.JobEvent.Warning(reason="FEW", message=each) for each in ("10", "10", "9")]
    training = job_pb2.DataReport(records=60, kept=59, dropped_too_long=1, dropped_lines=[7])
    prepared = job_pb2.JobEvent.Prepared(training=training)
    told = [event(number, warning=each) for number, each in enumerate(warnings, start=1)]
    _, text = _follow([*told, event(4, prepared=prepared), event(5, prepared=prepared)])
    assert text.count("warning: FEW: 10\n") == 1
    assert text.count("warning: FEW: 9\n") == 1
    assert text.count("59 of 60 records kept") == 1


def test_a_failure_says_why() -> None:
    error = stored_status("BASE_UNKNOWN", "no such base", {})
    view, _ = _follow([state(1, job_pb2.JOB_STATE_FAILED, error=error)])
    assert not view.succeeded
    assert outcome(view) == "failed: BASE_UNKNOWN: no such base"


def test_events_that_stop_early_are_no_success() -> None:
    view, _ = _follow(a_job_that_succeeds()[:3])
    assert not view.succeeded
    assert "while it was running" in outcome(view)


def test_what_was_found_out_is_shown_and_why_the_route_stayed() -> None:
    judged = judgement_to_proto(sample("judged.json")["judgement"])
    version = "tenants/acme/adapters/voice/versions/20261122T100000-job-1"
    published = job_pb2.JobEvent.Published(version=version, promotion_refusal="FORGOTTEN")
    view, text = _follow(
        [
            event(1, judged=judged),
            event(2, published=published),
            state(3, job_pb2.JOB_STATE_SUCCEEDED),
        ]
    )
    assert text.startswith("acme  judged:\n40 HELD-OUT RECORDS")
    assert outcome(view) == "published 20261122T100000-job-1, not promoted: FORGOTTEN"
    assert next_step(view) == (
        f"see why: tailorbird adapters report {version} --open\n"
        f"or let it take the traffic: tailorbird adapters promote {version}"
    )


def test_nothing_is_left_to_do_about_a_promoted_version_or_none() -> None:
    view, _ = _follow(a_job_that_succeeds())
    assert next_step(view) == ""
    failed, _ = _follow(a_job_that_succeeds()[:-1])
    assert next_step(failed) == ""
    assert next_step(JobView(state=job_pb2.JOB_STATE_SUCCEEDED)) == ""


def test_records_that_are_left_out_or_cut_are_told_once() -> None:
    clean = job_pb2.DataReport(records=60, kept=60)
    dropped = job_pb2.DataReport(
        records=60, kept=2, dropped_too_long=57, dropped_lines=range(1, 58),
        dropped_nothing_to_train=1, nothing_to_train_lines=[60],
    )  # fmt: skip
    cut = job_pb2.DataReport(records=10, kept=10, truncated=2, truncated_lines=[3, 7])
    for training, validation, told in (
        (clean, clean, []),
        (clean, None, []),
        (
            dropped,
            cut,
            [
                "acme  training data: 2 of 60 records kept; 57 dropped as too long (lines 1-57); "
                "1 dropped with nothing to train (line 60)",
                "acme  validation data: 10 of 10 records kept; 2 cut at the longest length allowed "
                "(lines 3, 7)",
            ],
        ),
    ):
        prepared = job_pb2.JobEvent.Prepared(training=training, validation=validation)
        _, text = _follow([event(1, prepared=prepared)])
        assert text.splitlines() == told

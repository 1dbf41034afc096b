"""`tailorbird jobs sweep` against a real socket: what it asks, what it prints, how it fails."""

from __future__ import annotations

import io
import json

import pytest
from google.protobuf.descriptor import Descriptor
from rich.console import Console

from tailorbird.cli import sweeps
from tailorbird.errors import InvalidArgument
from tailorbird.tuning.v1 import job_pb2, sweep_pb2, tuning_service_pb2
from tests.integration.scripted_services import Script, a_job_that_succeeds, state
from tests.integration.test_cli import MIND, Run, run

__all__ = ["run"]

CREATE = ("jobs", "sweep", "create", "--adapter", "support", "--data", "chats")


@pytest.fixture
def sweep(script: Script) -> sweep_pb2.Sweep:
    """One that has ended: the second trial was the best, the third was no number."""
    found = script.sweep
    found.state = job_pb2.JOB_STATE_SUCCEEDED
    found.progress.step, found.progress.total_steps = 140, 140
    found.rungs_decided = 2
    found.version = "tenants/acme/adapters/support/versions/20261121T100000-rates-1"
    for fraction, keep in ((0.5, 1), (1.0, 1)):
        found.rungs.add(fraction=fraction, keep=keep)
    losses: list[list[float | None]] = [[1.5], [1.25, 1.125], [None]]
    for index, told in enumerate(losses):
        trial = found.trials.add(index=index, rank=8, alpha=16, step=50, total_steps=100)
        if index:
            trial.learning_rate, trial.epochs = 3e-4, 2
        for loss in told:
            trial.rungs.add(step=50, validation_loss=loss)
    found.trials[0].state = sweep_pb2.TRIAL_STATE_STOPPED
    found.trials[0].stop_reason = "HALVED"
    found.trials[1].state = sweep_pb2.TRIAL_STATE_BEST
    found.trials[2].state = sweep_pb2.TRIAL_STATE_STOPPED
    found.trials[2].stop_reason = "NON_FINITE"
    return found


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def test_create_says_what_was_asked(run: Run, script: Script, sweep: sweep_pb2.Sweep) -> None:
    ran = run(
        *CREATE,
        *("--ranks", "8,16", "--alphas", "16,32", "--learning-rates", "1e-4,1e-3"),
        *("--epochs", "1,2", "--draw", "5", "--seed", "7", "--eta", "3", "--validation", "0.1"),
        *("--policy", "always", "--sweep-id", "rates", "--request-id", "r1", "--exclusive"),
    )
    assert ran.status == 0, ran.err
    request = script.requests[0]
    assert (request.parent, request.sweep_id, request.request_id) == ("tenants/acme", "rates", "r1")
    asked = request.sweep
    assert (asked.random_trials, asked.seed, asked.eta) == (5, 7, 3)
    assert list(asked.space.ranks) == [8, 16]
    assert list(asked.space.alphas) == [16, 32]
    assert list(asked.space.learning_rates) == [1e-4, 1e-3]
    assert list(asked.space.epochs) == [1, 2]
    assert asked.spec.adapter == "tenants/acme/adapters/support"
    assert asked.spec.validation_fraction == pytest.approx(0.1)
    assert asked.spec.promotion_policy == job_pb2.PROMOTION_POLICY_ALWAYS
    assert asked.spec.isolation == job_pb2.ISOLATION_EXCLUSIVE
    assert not asked.spec.lora.HasField("rank")
    assert "rates  succeeded · step 140/140 · rung 2/2" in ran.out


def test_the_data_and_the_judgement_are_asked_for_as_of_a_job(run: Run, script: Script) -> None:
    ran = run(
        *(*CREATE, "--ranks", "8,16", "--max-sequence-length", "512"),
        *("--too-long", "truncate", "--max-too-long", "0.5"),
        *("--data-limit", "leakage=0", "--data-limit", "contradictions=0.1"),
        *("--metric", "exact_match", "--slice", "region", "--slice", "plan", "--few-shot", "4"),
        *("--max-retention-loss", "0.2", "--max-forgotten", "0.25"),
    )
    assert ran.status == 0, ran.err
    spec = script.requests[0].sweep.spec
    assert spec.hyperparameters.max_sequence_length == 512
    assert spec.data == job_pb2.DataPolicy(
        too_long=job_pb2.TOO_LONG_TRUNCATE, max_too_long_fraction=0.5
    )
    assert spec.data_limits == job_pb2.DataLimits(max_leakage=0, max_contradictions=0.1)
    assert spec.evaluation == job_pb2.EvaluationConfig(
        primary_metric="exact_match",
        slice_fields=["region", "plan"],
        few_shot_examples=4,
        max_retention_loss=0.2,
        max_forgotten=0.25,
    )


@pytest.mark.parametrize("more", [(), ("--validate-only",), ("-o", "json")])
def test_a_sweeps_data_is_warned_of(run: Run, script: Script, more: tuple[str, ...]) -> None:
    script.warnings = [MIND]
    ran = run(*CREATE, "--ranks", "8,16", *more)
    assert ran.err == f"warning: {MIND.reason}: {MIND.message}\n"


def test_rates_may_be_a_range(run: Run, script: Script) -> None:
    ran = run(*CREATE, "--learning-rates", "1e-5..1e-2", "--draw", "4")
    assert ran.status == 0, ran.err
    space = script.requests[0].sweep.space
    assert (space.learning_rate_range.low, space.learning_rate_range.high) == (1e-5, 1e-2)
    assert not space.learning_rates


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--ranks", "8,x"), ("--ranks", "8,,16"), ("--ranks", "8,"), ("--epochs", "1.5")),
        ("--learning-rates", "1..x"),
    ],
)
def test_what_is_no_number_is_refused_here(
    run: Run, script: Script, option: str, value: str
) -> None:
    ran = run(*CREATE, option, value)
    assert ran.status == 2
    assert option in ran.err
    assert not script.requests


def test_a_number_beyond_the_field_is_refused_here(run: Run, script: Script) -> None:
    ran = run(*CREATE, "--ranks", "8,99999999999")
    assert ran.status == 2
    assert "--ranks: 99999999999 is out of range: at most 2147483647" in ran.err
    assert not script.requests


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("sweep.space.ranks[1]", "--ranks (sweep.space.ranks[1]): is wrong"),
        ("sweep.space.learning_rate_range.low", "--learning-rates (sweep.space.learning_rate_r"),
        ("sweep.space", "--ranks, --alphas, --learning-rates, --epochs (sweep.space): is wrong"),
        ("sweep.random_trials", "--draw (sweep.random_trials): is wrong"),
        ("sweep.spec.evaluation.graders[0].name", "--evaluation (sweep.spec.evaluation.graders"),
        ("sweep.spec.evaluation.slice_fields[0]", "--slice (sweep.spec.evaluation.slice_fields"),
        ("sweep.spec.lora.rank", "INVALID_ARGUMENT sweep.spec.lora.rank: is wrong"),
    ],
)
def test_a_refusal_names_the_option(run: Run, script: Script, field: str, said: str) -> None:
    script.error = InvalidArgument(field, "is wrong")
    ran = run(*CREATE, "--ranks", "8,16")
    assert ran.status == 4
    assert said in ran.err


def test_every_option_and_field_that_is_named_is_one(run: Run) -> None:
    told = run("jobs", "sweep", "create", "--help").out
    for field, flags in sweeps._FLAGS.items():
        message: Descriptor | None = tuning_service_pb2.CreateSweepRequest.DESCRIPTOR
        for name in field.split("."):
            assert message is not None
            message = message.fields_by_name[name].message_type
        for flag in flags.split(", "):
            assert flag in told


def test_a_sweep_is_a_table_of_its_trials(run: Run, sweep: sweep_pb2.Sweep) -> None:
    ran = run("jobs", "sweep", "get", "rates")
    title, heads, *trials = rows(ran.out)
    assert title[0] == "rates"
    assert heads == ["TRIAL", "RANK", "ALPHA", "RATE", "EPOCHS", "STEP", "50%", "100%"]
    assert trials == [
        ["0", "8", "16", "auto", "auto", "50/100", "1.5000", "halved"],
        ["1", "8", "16", "0.0003", "2", "50/100", "1.2500", "1.1250", "best"],
        ["2", "8", "16", "0.0003", "2", "50/100", "-", "no", "number"],
    ]
    shown = json.loads(run("jobs", "sweep", "get", "rates", "-o", "json").out)
    assert shown["trials"][1]["state"] == "TRIAL_STATE_BEST"


def test_an_eighth_of_the_steps_is_not_rounded(run: Run, sweep: sweep_pb2.Sweep) -> None:
    sweep.rungs[0].fraction = 0.125
    assert "12.5%" in run("jobs", "sweep", "get", sweep.name).out


def test_sweeps_are_listed_and_cancelled(run: Run, script: Script, sweep: sweep_pb2.Sweep) -> None:
    heads, *found = rows(run("jobs", "sweep", "list").out)
    assert heads == ["SWEEP", "STATE", "TRIALS", "RUNG", "ADAPTER", "CREATED", "VERSION"]
    assert [row[:4] for row in found] == [[sweep.name, "succeeded", "3", "2/2"]] * 2
    assert len(json.loads(run("jobs", "sweep", "list", "-o", "json").out)) == 2
    assert run("jobs", "sweep", "cancel", "rates").status == 0
    assert script.requests[-1].name == sweep.name


def decided(sequence: int) -> job_pb2.JobEvent:
    event = job_pb2.JobEvent(sequence=sequence)
    event.rung_decided.going_on.append(1)
    return event


def test_a_watch_shows_the_table_after_each_rung_and_the_outcome(
    run: Run, script: Script, sweep: sweep_pb2.Sweep
) -> None:
    script.events = a_job_that_succeeds()
    last = script.events.pop()
    count = len(script.events)
    warning = job_pb2.JobEvent(sequence=count + 1)
    warning.warning.reason = "FEW_RECORDS"
    prepared = job_pb2.JobEvent(sequence=count + 3)
    prepared.prepared.training.records = 60
    prepared.prepared.training.kept = 59
    prepared.prepared.training.dropped_too_long = 1
    prepared.prepared.training.dropped_lines.append(7)
    judged = job_pb2.JobEvent(sequence=count + 4)
    judged.judged.primary_metric = "exact_match"
    again = job_pb2.JobEvent(sequence=count + 5, warning=warning.warning)
    last.sequence = count + 6
    script.events += [warning, decided(count + 2), prepared, judged, again, last]
    script.warnings = [MIND]
    ran = run(*CREATE, "--ranks", "8,16", "--watch")
    assert ran.status == 0, ran.err
    assert ran.out.count("TRIAL") == 2
    # What the answer says of the data stands in the history, too.
    assert MIND.reason not in ran.err
    # A trainer that takes a sweep up again tells of its data again.
    assert ran.out.count("warning: FEW_RECORDS") == 1
    assert "59 of 60 records kept" in ran.out
    assert "exact_match" in ran.out
    assert "published" in rows(ran.out)[-1]


def test_a_watch_fails_with_its_sweep(run: Run, script: Script, sweep: sweep_pb2.Sweep) -> None:
    script.events = [state(1, job_pb2.JOB_STATE_CANCELLED)]
    ran = run(*CREATE, "--ranks", "8,16", "--watch")
    assert ran.status == 9
    assert "tenants/acme/sweeps/rates" in ran.err
    assert "cancelled" in ran.err


def test_on_a_terminal_the_table_is_drawn_again_in_its_place(
    run: Run, script: Script, sweep: sweep_pb2.Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(sweeps, "out", terminal)
    monkeypatch.setattr(sweeps, "_REDRAW_SECONDS", 0.0)
    script.events = a_job_that_succeeds()
    assert run("jobs", "sweep", "watch", "rates").status == 0
    gets = [each for each in script.requests if type(each).__name__ == "GetSweepRequest"]
    assert len(gets) == 1 + len(script.events) + 1
    assert screen.getvalue().count("TRIAL") >= len(script.events) + 2
    assert "\x1b[1A" in screen.getvalue()

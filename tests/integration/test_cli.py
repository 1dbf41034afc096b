"""The `tailorbird` command against a real socket: what it asks, what it prints, how it fails."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.rpc import status_pb2
from prometheus_client import CollectorRegistry
from rich.console import Console

from tailorbird import errors
from tailorbird.base_model import load_base_model
from tailorbird.cli.app import main
from tailorbird.rpc.status import stored_status
from tailorbird.serving.v1 import inference_service_pb2 as serving_pb
from tailorbird.telemetry import HealthServer
from tailorbird.trainer_client import TrainerClient
from tailorbird.tuning.v1 import dataset_pb2, job_pb2, preflight_pb2, tuning_service_pb2
from tests.certificates import Authority
from tests.integration.scripted_services import (
    ADAPTER,
    VERSIONS,
    Script,
    a_job_that_succeeds,
    event,
    serve,
    state,
)


@dataclass
class Ran:
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    server, port = serve(script)
    monkeypatch.setenv("TAILORBIRD_TRAINER", f"localhost:{port}")
    monkeypatch.setenv("TAILORBIRD_SERVING", f"localhost:{port}")
    monkeypatch.setenv("TAILORBIRD_TOKEN", "secret")
    monkeypatch.setenv("TAILORBIRD_TENANT", "acme")
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["tailorbird", *arguments])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    yield run
    server.stop(None).wait()


def test_datasets(run: Run, script: Script, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("{}\n")
    assert (
        "tenants/acme/datasets/chats" in run("datasets", "upload", str(path), "--id", "chats").out
    )
    assert script.metadata[0]["authorization"] == "Bearer secret"
    shown = json.loads(run("datasets", "get", "chats", "-o", "json").out)
    assert shown["name"] == "tenants/acme/datasets/chats"


MIND = dataset_pb2.DataWarning(reason="DUPLICATE_RECORDS", message="5 of 99: line 9 is 1")
_Report = dataset_pb2.DatasetReport


def test_a_dataset_s_report_is_shown_with_its_warnings_first(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script.report = _Report(
        records=1200,
        compared_records=1100,
        warnings=[MIND],
        prompts=_Report.Lengths(
            total=9000,
            median=7,
            longest=40,
            bins=[
                _Report.Bin(at_least=0, below=16, records=1199),
                _Report.Bin(at_least=32, below=64, records=1),
            ],
        ),
        answers=_Report.Lengths(bins=[_Report.Bin(at_least=2**20, records=1200)]),
        duplicates=_Report.Duplicates(surplus=5),
        near_duplicates=_Report.NearDuplicates(compared=1000, found=2),
        contradictions=_Report.Contradictions(records=4),
        short_answers=_Report.ShortAnswers(records=3),
        labels=[_Report.Label(label="y\u00e9s\x1b[2J\u202e", records=7)],
        languages=_Report.Languages(
            sampled=256, languages=[_Report.Language(code="en", records=250)]
        ),
        scripts=[_Report.Script(script="Latin", letters=8000)],
    )
    path = tmp_path / "chats.jsonl"
    path.write_text("{}\n")
    shown = run("datasets", "get", "chats").out
    uploaded = run("datasets", "upload", str(path), "--id", "chats").out
    assert uploaded.splitlines()[0] == shown.splitlines()[0]
    assert uploaded.splitlines()[-4:] == shown.splitlines()[-4:]
    assert shown.splitlines()[0] == "warning: DUPLICATE_RECORDS: 5 of 99: line 9 is 1"
    said = dict(line.split("  ", 1) for line in shown.splitlines()[1:] if "  " in line)
    said = {name.strip(): value.strip() for name, value in said.items()}
    assert said["prompts"] == "9,000 characters; median 7, longest 40"
    assert said["duplicates"] == "5 of 1,100"
    assert said["near-duplicates"] == "2 of 1,000"
    assert said["contradictory"] == "4 of 1,100"
    assert said["short answers"] == "3 of 1,200"
    # What a terminal would act on is not sent to it.
    assert said["labels"] == "y\u00e9s\\x1b[2J\\u202e 7"
    assert said["languages"] == "en 250 of 256 looked at"
    assert said["scripts"] == "Latin 8,000"
    assert [said[one].split() for one in ("0 to 15", "32 to 63", "1,048,576 or more")] == [
        ["1,199", "0"],
        ["1", "0"],
        ["0", "1,200"],
    ]
    assert (
        json.loads(run("datasets", "get", "chats", "-o", "json").out)["report"]["records"] == "1200"
    )


@pytest.mark.parametrize("more", [(), ("--validate-only",), ("-o", "json")])
def test_a_job_s_data_is_warned_of(run: Run, script: Script, more: tuple[str, ...]) -> None:
    script.warnings = [MIND]
    ran = run("jobs", "create", "--adapter", "support", "--data", "chats", *more)
    assert ran.err == "warning: DUPLICATE_RECORDS: 5 of 99: line 9 is 1\n"


def test_a_check_shows_what_the_job_would_do_with_its_data(run: Run, script: Script) -> None:
    data = preflight_pb2.Preflight.CheckedData(
        account=job_pb2.DataReport(
            records=60, kept=3, dropped_too_long=57, dropped_lines=range(4, 61),
            trained_tokens=1200, masked_tokens=3400,
        ),
        too_long_fraction=0.95, median=40, longest=64,
        lengths=[
            preflight_pb2.Preflight.TokenBin(at_least=32, below=64, sequences=2),
            preflight_pb2.Preflight.TokenBin(at_least=64, below=128, sequences=1),
        ],
    )  # fmt: skip
    script.preflight = preflight_pb2.Preflight(
        training=data,
        hyperparameters=job_pb2.Hyperparameters(
            learning_rate=0.00123, epochs=6, batch_tokens=512, max_sequence_length=64
        ),
        total_steps=1800,
    )
    asked = ("jobs", "create", "--adapter", "support", "--data", "chats", "--validate-only")
    shown = run(*asked).out
    said = {
        name.strip(): value.strip()
        for name, value in (line.split("  ", 1) for line in shown.splitlines() if "  " in line)
    }
    assert said["training"] == (
        "3 of 60 records; 1,200 tokens trained, 3,400 read only; median 40, longest 64"
    )
    assert said["too long"] == "95.0% of the training data"
    assert said["steps"] == "1,800: 6 epochs"
    assert said["learning rate"] == "0.00123"
    assert said["sequence length"] == "64 tokens"
    assert said["32 to 63"] == "2"
    assert "validation" not in shown.lower()
    assert "training data: 3 of 60 records kept; 57 dropped as too long (lines 4-60)" in shown
    assert shown.splitlines()[-1] == "the job would be accepted"
    assert json.loads(run(*asked, "-o", "json").out)["total_steps"] == "1800"
    script.preflight.validation.CopyFrom(data)
    shown = run(*asked).out
    assert "95.0% of the training data, 95.0% of the validation data" in shown
    assert shown.splitlines()[-2].split() == ["64", "to", "127", "1", "1"]
    script.preflight.held_out = True
    shown = run("jobs", "sweep", "create", *asked[2:], "--ranks", "8,16").out
    assert "validation (held out)" in shown
    assert "of the validation data" not in shown


def test_a_job_is_shown_with_what_its_data_is_like(run: Run, script: Script) -> None:
    script.job.spec.training_dataset = "tenants/acme/datasets/chats"
    script.job.spec.validation_dataset = "tenants/acme/datasets/held"
    script.report = _Report(
        records=1200,
        warnings=[MIND],
        duplicates=_Report.Duplicates(surplus=5),
        contradictions=_Report.Contradictions(records=4),
        labels=[_Report.Label(label="yes", records=7)] * 3,
    )
    line = "chats: 1,200 records, 5 duplicates, 4 contradictory; 3 classes of answers"
    shown = run("jobs", "get", "one").out.splitlines()
    assert line in shown
    assert line.replace("chats", "held") in shown
    assert "warning: DUPLICATE_RECORDS: 5 of 99: line 9 is 1" in shown
    assert "duplicates," not in run("jobs", "get", "one", "-o", "json").out
    script.events = a_job_that_succeeds()
    watched = run("jobs", "watch", "one").out
    assert line in watched.splitlines()
    # What is warned of stands in the job's history.
    assert "DUPLICATE_RECORDS" not in watched
    assert line not in run("jobs", "watch", "one", "--after", "1").out
    script.report.CopyFrom(_Report(records=3))
    assert "chats: 3 records, none repeated or contradictory" in run("jobs", "get", "one").out


def test_a_job_whose_data_is_gone_is_shown_without(run: Run, script: Script) -> None:
    script.job.spec.training_dataset = "tenants/acme/datasets/gone"
    ran = run("jobs", "get", "one")
    assert (ran.status, "records" in ran.out) == (0, False)


def test_a_dataset_s_report_is_written_as_a_page(run: Run, tmp_path: Path) -> None:
    to = tmp_path / "report.html"
    assert run("datasets", "report", "chats", "--out", str(to)).out == f"{to}\n"
    assert to.read_text() == "<p>größer</p>"
    path = Path(run("datasets", "report", "chats").out.strip())
    assert path.name.startswith("chats-")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "<p>größer</p>"
    path.unlink()


def test_who_watches_is_warned_once(run: Run, script: Script) -> None:
    script.warnings = [MIND]
    warning = job_pb2.JobEvent.Warning(reason=MIND.reason, message=MIND.message)
    script.events = [
        job_pb2.JobEvent(sequence=1, warning=warning),
        state(2, job_pb2.JOB_STATE_CANCELLED),
    ]
    ran = run("jobs", "create", "--adapter", "support", "--data", "chats", "--watch")
    assert (ran.out + ran.err).count("DUPLICATE_RECORDS: 5 of 99: line 9 is 1") == 1


def test_limits_of_the_data_are_asked_for(run: Run, script: Script) -> None:
    limits = ("--data-limit", "leakage=0", "--data-limit", "exact-duplicates=0.05")
    assert run("jobs", "create", "--adapter", "a", "--data", "b", *limits).status == 0
    assert script.requests[0].job.spec.data_limits == job_pb2.DataLimits(
        max_leakage=0, max_exact_duplicates=0.05
    )


def test_an_upload_says_what_personal_data_was_found(
    run: Run, script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("{}\n")
    upload = ("datasets", "upload", str(path), "--id", "chats")
    assert "personal data" not in run(*upload).out
    assert script.requests[-1].personal_data == dataset_pb2.PERSONAL_DATA_MODE_UNSPECIFIED
    ran = run(*upload, "--personal-data", "substitute")
    assert script.requests[-1].personal_data == dataset_pb2.PERSONAL_DATA_MODE_SUBSTITUTE
    assert "email 2 (in 1 records; substitute)" in ran.out
    assert "none found (in 0 records; scan)" in run(*upload, "--personal-data", "scan").out
    assert run(*upload, "--personal-data", "hide").status == 2


def test_a_token_from_a_file_has_a_line_s_end(
    run: Run, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a Secret has it that was made of what `tailorbird tokens add` printed."""
    monkeypatch.setenv("TAILORBIRD_TOKEN", "secret\n")
    assert run("generate", "--base", "Hello").status == 0
    assert script.metadata[0]["authorization"] == "Bearer secret"


def test_create_says_what_was_asked(run: Run, script: Script) -> None:
    ran = run(
        *("jobs", "create", "--adapter", "support", "--data", "chats", "--validation", "0.1"),
        *("--rank", "8", "--epochs", "3", "--learning-rate", "1e-3", "--policy", "manual"),
        *("--job-id", "one", "--request-id", "r1"),
        *("--exclusive", "--early-stopping-patience", "4", "--max-sequence-length", "64"),
        *("--too-long", "truncate", "--max-too-long", "0.5"),
    )
    assert ran.status == 0, ran.err
    request = script.requests[0]
    spec = request.job.spec
    assert (request.parent, request.job_id, request.request_id) == ("tenants/acme", "one", "r1")
    assert spec.adapter == ADAPTER
    assert spec.training_dataset == "tenants/acme/datasets/chats"
    assert spec.validation_fraction == pytest.approx(0.1)
    assert spec.lora.rank == 8
    assert not spec.lora.HasField("alpha")
    assert spec.hyperparameters.epochs == 3
    assert spec.hyperparameters.early_stopping_patience == 4
    assert spec.isolation == job_pb2.ISOLATION_EXCLUSIVE
    assert not spec.hyperparameters.HasField("seed")
    assert spec.hyperparameters.max_sequence_length == 64
    assert spec.data.too_long == job_pb2.TOO_LONG_TRUNCATE
    assert spec.data.max_too_long_fraction == 0.5
    assert spec.promotion_policy == job_pb2.PROMOTION_POLICY_MANUAL


_CREATES = [
    ("jobs", "create"),
    ("jobs", "create", "--validate-only"),
    ("jobs", "sweep", "create", "--ranks", "8,16"),
]


def _spec(request: Any) -> job_pb2.JobSpec:
    found: job_pb2.JobSpec = (request.job if hasattr(request, "job") else request.sweep).spec
    return found


@pytest.mark.parametrize("create", _CREATES)
def test_data_to_validate_on_is_a_share_or_a_dataset(
    run: Run, script: Script, create: tuple[str, ...]
) -> None:
    asked = (*create, "--adapter", "support", "--data", "chats", "--validation")
    for share in ("0.1", "1e-1", ".1"):
        assert run(*asked, share).status == 0
        assert _spec(script.requests[-1]).validation_fraction == 0.1
    for name in ("2024", "nan", "inf", "infinity", "0", "1", "1e5", "tenants/acme/datasets/1e-1"):
        assert run(*asked, name).status == 0
        dataset = name if "/" in name else f"tenants/acme/datasets/{name}"
        assert _spec(script.requests[-1]).validation_dataset == dataset
    assert run(*asked, "s3://held/out.jsonl").status == 0
    assert _spec(script.requests[-1]).validation_dataset == "s3://held/out.jsonl"


@pytest.mark.parametrize("create", _CREATES)
@pytest.mark.parametrize("given", ["1.5", "-1", "0.0", "-0.1", "NaN", "1.0", "", "ten percent"])
def test_what_is_neither_a_share_nor_a_dataset_is_refused(
    run: Run, script: Script, create: tuple[str, ...], given: str
) -> None:
    ran = run(*create, "--adapter", "support", "--data", "chats", f"--validation={given}")
    assert (ran.status, script.requests) == (2, [])
    said = " ".join(ran.err.replace("│", " ").split())
    assert f"--validation: {given!r} is neither a share of the training data, above 0" in said


@pytest.mark.parametrize("given", ["20261121T100000-job-1", VERSIONS[1]])
def test_a_job_trains_on_from_a_version_by_its_name_or_its_id(
    run: Run, script: Script, given: str
) -> None:
    ran = run("jobs", "create", "--adapter", "support", "--data", "chats", "--from-version", given)
    assert script.requests[0].job.spec.from_version == VERSIONS[1]
    assert f"trains on from  {VERSIONS[1]}" in ran.out
    assert run("jobs", "create", "--adapter", "support", "--data", "chats").status == 0
    assert script.requests[1].job.spec.from_version == ""
    assert not script.requests[1].job.spec.data.HasField("max_too_long_fraction")


def test_full_names_carry_their_tenant(run: Run, script: Script) -> None:
    run(
        *("jobs", "create", "--adapter", "tenants/birch/adapters/notes"),
        *("--data", "tenants/birch/datasets/notes", "--validation", "tenants/birch/datasets/held"),
    )
    request = script.requests[0]
    assert request.parent == "tenants/birch"
    assert request.job.spec.validation_dataset == "tenants/birch/datasets/held"


def test_watch_ends_with_the_job(run: Run, script: Script) -> None:
    script.events = a_job_that_succeeds()
    ran = run("jobs", "create", "--adapter", "support", "--data", "chats", "--watch")
    assert ran.status == 0
    assert "running" in ran.out
    assert ran.out.splitlines()[-1] == f"published {VERSIONS[0].rpartition('/')[2]}, promoted"


@pytest.mark.parametrize("watch", [("jobs", "watch"), ("jobs", "sweep", "watch")])
def test_watch_says_that_the_connection_is_lost_and_that_it_is_back(
    run: Run, script: Script, watch: tuple[str, ...]
) -> None:
    script.events = a_job_that_succeeds()
    script.breaks_after = [3, 6]
    ran = run(*watch, "rates")
    assert ran.status == 0
    lost = (
        "connection lost: the trainer stops; trying again, for 15 min at most. "
        "The job does not need this watch\n"
    )
    assert ran.err == (lost + "connected again; no event was missed\n") * 2
    assert "lost" not in ran.out
    asked = [each for each in script.requests if hasattr(each, "after_sequence")]
    assert [each.after_sequence for each in asked] == [0, 3, 6]


def test_a_terminal_shows_a_watched_job_as_it_goes(
    run: Run, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    for module in ("job_shown", "contact"):
        monkeypatch.setattr(f"tailorbird.cli.{module}.out", terminal)
    script.events, script.breaks_after = a_job_that_succeeds(), [3]
    ran = run("jobs", "watch", "one")
    assert isinstance(terminal.file, io.StringIO)
    shown = terminal.file.getvalue()
    assert (ran.status, ran.err) == (0, "")
    # The bar's own lines, and above them what was said of the connection.
    assert "loss        0.500  █▃▂▁" in shown
    assert "connection lost: the trainer stops" in shown
    assert "published 20261122T100000-job-1, promoted" in shown


def test_watch_fails_with_the_job(run: Run, script: Script) -> None:
    error: status_pb2.Status = stored_status("NON_FINITE", "the loss is not finite", {})
    script.events = [state(1, job_pb2.JOB_STATE_FAILED, error=error)]
    ran = run("jobs", "watch", "one")
    assert ran.status == 9
    assert ran.err == "failed: NON_FINITE: the loss is not finite\n"


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ([], "the {0} goes on: {1}"),
        ([job_pb2.JOB_STATE_RUNNING], "the {0} goes on: {1}"),
        ([job_pb2.JOB_STATE_PAUSED], "the {0} stays paused: tailorbird jobs resume {2}"),
        ([job_pb2.JOB_STATE_PAUSED, job_pb2.JOB_STATE_QUEUED], "the {0} goes on: {1}"),
    ],
)
@pytest.mark.parametrize(
    ("thing", "command", "name", "job"),
    [
        ("job", "jobs watch", "tenants/acme/jobs/one", "tenants/acme/jobs/one"),
        ("sweep", "jobs sweep watch", "tenants/acme/sweeps/rates", "tenants/acme/jobs/rates"),
    ],
)
def test_a_watch_that_is_interrupted_says_what_becomes_of_the_job(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    states: list[job_pb2.JobState.ValueType],
    told: str,
    thing: str,
    command: str,
    name: str,
    job: str,
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[job_pb2.JobEvent]:
        yield from (state(number, each) for number, each in enumerate(states, 1))
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainerClient, "watch_job", interrupted)
    ran = run(*command.split(), name)
    assert ran.status == 130
    assert ran.err == told.format(thing, f"tailorbird {command} {name}", job) + "\n"


def test_watch_says_that_a_job_is_paused_and_why(run: Run, script: Script) -> None:
    error: status_pb2.Status = stored_status("DISK_FULL", "the trainer's disk is full", {})
    script.events = [
        state(1, job_pb2.JOB_STATE_PAUSED, error=error),
        state(2, job_pb2.JOB_STATE_QUEUED),
        state(3, job_pb2.JOB_STATE_PAUSED),
        state(4, job_pb2.JOB_STATE_CANCELLED),
    ]
    ran = run("jobs", "watch", "one")
    assert "paused: DISK_FULL: the trainer's disk is full; it goes on after" in ran.out
    assert "paused; it goes on after: tailorbird jobs resume" in ran.out
    assert ran.err == "cancelled\n"


@pytest.mark.parametrize(
    ("version", "promoted", "refusal", "said"),
    [
        (VERSIONS[0], True, "", "yes"),
        (VERSIONS[0], False, "NOT_BETTER_THAN_BASE", "no: NOT_BETTER_THAN_BASE"),
        (VERSIONS[0], False, "", "no"),
        ("", False, "", None),
    ],
)
def test_a_job_says_whether_its_version_is_promoted(
    run: Run, script: Script, version: str, promoted: bool, refusal: str, said: str | None
) -> None:
    script.job.version, script.job.promoted = version, promoted
    script.job.promotion_refusal = refusal
    lines = [line.split(maxsplit=1) for line in run("jobs", "get", "one").out.splitlines()]
    told = [line[1].strip() for line in lines if line and line[0] == "promoted"]
    assert told == ([] if said is None else [said])


@pytest.mark.parametrize("command", [("jobs",), ("jobs", "sweep")])
def test_a_watch_ends_with_what_may_be_done_about_a_version_not_promoted(
    run: Run, script: Script, command: tuple[str, ...]
) -> None:
    published = job_pb2.JobEvent.Published(version=VERSIONS[0], promotion_refusal="UNSAFE")
    script.events = [event(1, published=published), state(2, job_pb2.JOB_STATE_SUCCEEDED)]
    ran = run(*command, "watch", "one")
    assert ran.status == 0
    *_, outcome, see, promote = ran.out.splitlines()
    assert outcome.endswith("not promoted: UNSAFE")
    assert see == f"see why: tailorbird adapters report {VERSIONS[0]} --open"
    assert promote == f"or let it take the traffic: tailorbird adapters promote {VERSIONS[0]}"


def test_jobs_listed_shown_cancelled(run: Run, script: Script) -> None:
    assert len(json.loads(run("jobs", "list", "-o", "json", "--state", "running").out)) == 6
    assert script.requests[0].state == job_pb2.JOB_STATE_RUNNING
    assert "tenants/acme/jobs/2-b" in run("jobs", "list").out
    assert "running" in run("jobs", "get", "one").out
    assert run("jobs", "cancel", "one").status == 0
    script.job.pause_requested = True
    assert "running (to be paused)" in run("jobs", "pause", "one").out
    script.job.cancel_requested = True
    assert "running (to be cancelled)\n" in run("jobs", "cancel", "one").out
    assert run("jobs", "resume", "one").status == 0
    kinds = [type(request).__name__ for request in script.requests[-3:]]
    assert kinds == ["PauseJobRequest", "CancelJobRequest", "ResumeJobRequest"]


def test_a_job_is_deleted(run: Run, script: Script) -> None:
    assert run("jobs", "delete", "one").out.split() == ["deleted", "tenants/acme/jobs/one"]
    assert json.loads(run("jobs", "delete", "one", "-o", "json").out) == {
        "name": "tenants/acme/jobs/one"
    }
    assert [request.name for request in script.requests] == ["tenants/acme/jobs/one"] * 2


def test_a_report_is_summarised_where_no_page_is_asked_for(run: Run, script: Script) -> None:
    ran = run("adapters", "report", VERSIONS[0])
    assert "20 HELD-OUT RECORDS" in ran.out
    assert "SLICE_WORSE: worse in German" in ran.out
    assert "--open" in ran.out
    ran = run("adapters", "report", VERSIONS[1])
    assert f"{VERSIONS[1]} was not judged" in ran.out
    assert "--open" not in ran.out


def test_a_report_is_written_to_a_file(run: Run, tmp_path: Path) -> None:
    page, figures = tmp_path / "report.html", tmp_path / "report.json"
    ran = run("adapters", "report", VERSIONS[0], "--out", str(page))
    assert (ran.status, ran.out.strip()) == (0, str(page))
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")
    ran = run("adapters", "report", VERSIONS[0], "-o", "json", "--out", str(figures))
    assert (ran.out.strip(), json.loads(figures.read_text())) == (str(figures), {"best_step": 7})
    assert json.loads(run("adapters", "report", VERSIONS[0], "-o", "json").out) == {"best_step": 7}
    ran = run("adapters", "report", VERSIONS[0], "--out", str(tmp_path / "none" / "report.html"))
    assert (ran.status, "No such file" in ran.err) == (1, True)


@pytest.mark.parametrize("found", [True, False])
def test_a_report_opens_in_the_browser(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    opened: list[str] = []

    def browse(address: str) -> bool:
        opened.append(address)
        return found

    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ran = run(
        "adapters", "report", VERSIONS[0].rpartition("/")[2], "--adapter", "support", "--open"
    )
    (path,) = tmp_path.iterdir()
    assert (ran.status, ran.out.strip(), opened) == (0, str(path), [path.as_uri()])
    assert ("no browser" in ran.err) is not found
    assert path.read_bytes().startswith(b"<!DOCTYPE html>")
    assert path.suffix == ".html"
    assert path.stat().st_mode & 0o077 == 0
    ran = run("adapters", "report", VERSIONS[0], "--open", "-o", "json")
    assert (ran.status, "--open" in ran.err) == (2, True)


def test_adapters(run: Run, script: Script) -> None:
    latest = VERSIONS[0].rpartition("/")[2]
    assert ADAPTER in run("adapters", "list").out
    assert "publish of billing" in run("adapters", "get", "support").out
    older = VERSIONS[1].rpartition("/")[2]
    lines = run("adapters", "versions", "support").out.splitlines()
    (line,) = [line for line in lines if latest in line]
    assert line.endswith(older)
    shown = run("adapters", "version", latest, "--adapter", "support").out
    assert VERSIONS[0] in shown
    assert f"trained on from  {VERSIONS[1]}" in shown
    assert VERSIONS[0] in run("adapters", "promote", latest, "--adapter", "support").out
    ran = run("adapters", "rollback", "support", "--to", latest, "-o", "json")
    assert json.loads(ran.out)["generation"] == "3"


def test_routes_are_set_by_weights(run: Run, script: Script) -> None:
    new, old = (name.rpartition("/")[2] for name in VERSIONS)
    ran = run("adapters", "route", "set", "support", f"{new}=90", f"{old}=10", "--expect", "3")
    assert f"{new} 90.0%, {old} 10.0%" in ran.out
    request = script.requests[0]
    assert (request.name, request.expected_generation) == (ADAPTER, 3)
    assert [(one.version, one.weight) for one in request.versions] == [
        (VERSIONS[0], 90),
        (VERSIONS[1], 10),
    ]


def test_versions_are_warmed_deleted_imported(run: Run, script: Script, tmp_path: Path) -> None:
    latest = VERSIONS[0].rpartition("/")[2]
    assert "engine" in run("adapters", "warm", latest, "--adapter", "support", "--pin").out
    assert script.requests[0].pin
    run("adapters", "warm", VERSIONS[0])
    assert not script.requests[1].HasField("pin")
    assert "2026-11-21 10:00:00Z" in run("adapters", "delete", VERSIONS[0]).out
    listed = run("adapters", "residency").out
    assert f"support {latest}" in listed
    assert "serving-0" in listed
    assert "NOT_FINITE: a weight is not finite" in listed
    assert json.loads(run("adapters", "residency", "-o", "json").out)[0]["replica"] == "serving-0"
    ran = run("adapters", "import", "support", str(tmp_path))
    assert ran.status == 1
    assert "adapter_config.json" in ran.err
    assert VERSIONS[0] in run("adapters", "import", "support", "s3://bucket/adapter").out


def test_generate_asks_for_more(run: Run, script: Script, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    ran = run(
        *("generate", "--base", "--json-schema", str(schema), "--logprobs", "1", "hi"),
        *("--routing-key", "user-7"),
    )
    assert ran.out.startswith("Good morning.\nTOKEN")
    assert "'Good ':-0.500" in ran.out
    sent = script.requests[0].request
    assert (sent.sampling.json_schema, sent.routing_key) == ('{"type": "object"}', "user-7")
    assert run("generate", "--base", "--n", "2", "hi").out == (
        "[1]\nGood morning.\n[2]\nGood night.\n"
    )
    run("generate", "--base", "--choice", "yes", "--choice", "no", "hi")
    assert list(script.requests[2].request.sampling.choices.choices) == ["yes", "no"]
    run("generate", "--base", "--regex", "[0-9]+", "hi")
    assert script.requests[3].request.sampling.regex == "[0-9]+"


def test_generate_streams(run: Run, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("generate", "--adapter", "support", "--max-tokens", "9", "Hello?").out == (
        "Good morning.\n"
    )
    sent: serving_pb.GenerateRequest = script.requests[0].request
    assert (sent.adapter, sent.sampling.max_tokens) == (ADAPTER, 9)
    monkeypatch.setattr(sys, "stdin", stdin(b"from a pipe"))
    assert run("generate", "--base", "-").status == 0
    assert script.requests[1].request.parent == "tenants/acme"
    assert script.requests[1].request.chat.messages[0].content == "from a pipe"


def stdin(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("jobs", "create", "--adapter", "\udcff", "--data", "d"), "adapter: it is not UTF-8"),
        (("jobs", "create", "--adapter", "a", "--data", "d", "--epochs", "9" * 11), "epochs: 9999"),
        (("generate", "--base", "\udcff\udcfe"), "text: it is not UTF-8"),
        (
            ("generate", "--base", "--max-tokens", "9" * 11, "hi"),
            "max_tokens: 99999999999 is out of range: at most 2147483647 is accepted",
        ),
        (("generate", "--base", "-"), "text: byte 2 is not UTF-8"),
        (("generate", "--base", "--choice", "\udcff", "hi"), "choice: it is not UTF-8"),
        (("generate", "--base", "--choice", "a", "--regex", "a", "hi"), "choices: at most one of"),
        (("jobs", "list", "--trainer", ""), "address: it is empty"),
    ],
)
def test_what_no_message_can_hold_is_one_line(
    run: Run, script: Script, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], line: str
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin(b"a\xff"))
    ran = run(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {line}")
    assert ran.err.count("\n") == 1
    assert script.requests == []


def test_info(run: Run, script: Script) -> None:
    assert {"trainer", "serving"} == set(json.loads(run("info", "-o", "json").out))
    assert "attention" not in run("info").out
    script.engine = tuning_service_pb2.Engine(
        compute_dtype="bfloat16", attention="varlen", optimizer="adamw_fused"
    )
    assert "bfloat16 products · attention varlen · adamw_fused\n" in run("info").out
    script.engine.gradient_checkpointing = True
    assert "adamw_fused · gradient checkpointing\n" in run("info").out
    ran = run("info", "--trainer", "localhost:1")
    assert ran.status == 8
    assert "8 at once" in ran.out
    assert ran.err.startswith("trainer: error: UNAVAILABLE")


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (
            errors.InvalidArgument("job.spec.lora.rank", "7 is not a rank", reason="BAD_RANK"),
            "error: INVALID_ARGUMENT BAD_RANK job.spec.lora.rank: 7 is not a rank\n",
            4,
        ),
        (errors.NotFound(ADAPTER), f"error: NOT_FOUND {ADAPTER} does not exist\n", 3),
        (
            errors.ResourceExhausted("too many", quota="requests", subject="tenants/acme"),
            "error: RESOURCE_EXHAUSTED too many; requests of tenants/acme; try again after 1 s\n",
            7,
        ),
        (errors.Conflict("moved\nmeanwhile"), "error: ABORTED CONFLICT moved meanwhile\n", 6),
        (errors.Unavailable("it stops"), "error: UNAVAILABLE it stops; try again after 1 s\n", 8),
    ],
)
def test_a_failed_call_is_one_line(
    run: Run, script: Script, error: errors.TailorbirdError, line: str, status: int
) -> None:
    script.error = error
    ran = run("adapters", "get", "support")
    assert (ran.status, ran.out, ran.err) == (status, "", line)


def test_bad_lines_have_a_line_each(run: Run, script: Script, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("{}\n")
    bad = [errors.InvalidRecord(line, text) for line, text in ((3, "not JSON"), (17, "empty"))]
    script.error = errors.InvalidRecords(bad, 2, 60)
    ran = run("datasets", "upload", str(path), "--id", "chats", "--format", "text")
    assert script.requests[0].format == dataset_pb2.DATASET_FORMAT_TEXT
    assert (ran.status, ran.out) == (4, "")
    assert ran.err == (
        "error: INVALID_ARGUMENT INVALID_RECORD 2 bad lines of 60: line 3: not JSON\n"
        "  line 3: not JSON\n"
        "  line 17: empty\n"
    )
    script.error = errors.InvalidRecords(bad[1:], 1, 60)
    ran = run("datasets", "upload", str(path), "--id", "chats")
    assert script.requests[1].format == dataset_pb2.DATASET_FORMAT_UNSPECIFIED
    assert ran.err == "error: INVALID_ARGUMENT INVALID_RECORD line 17: empty\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "create"),
        ("jobs", "list", "--state", "lost"),
        ("jobs", "create", "--adapter", "a", "--data", "b", "--data-limit", "leaks=0"),
        ("jobs", "create", "--adapter", "a", "--data", "b", "--data-limit", "leakage=none"),
        ("jobs", "create", "--adapter", "a", "--data", "b", "--data-limit", "leakage"),
        ("jobs", "create", *("--adapter", "a", "--data", "b"), *("--data-limit", "leakage=0") * 2),
        ("datasets", "upload", "/none.jsonl", "--id", "x"),
        ("generate", "hello"),
        ("generate", "--base", "--adapter", "support", "hello"),
        ("adapters", "promote", "20261121T100000-job-1"),
        ("adapters", "route", "set", "support", "20261121T100000-job-1"),
        ("adapters", "route", "set", "support", "20261121T100000-job-1=x"),
        ("adapters", "route", "set", "support", "v=1", "v=2"),
        ("nonsense",),
    ],
)
def test_wrong_usage_exits_2(run: Run, script: Script, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert ran.status == 2
    assert "Traceback" not in ran.err
    assert script.requests == []


def test_a_tenant_is_needed_and_checked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("jobs", "list", "--tenant", "../etc").err.startswith("error: --tenant: '../etc'")
    monkeypatch.delenv("TAILORBIRD_TENANT")
    ran = run("jobs", "list")
    assert ran.status == 2
    assert "TAILORBIRD_TENANT" in ran.err


def test_an_authority_of_ones_own_is_trusted_by_its_file(
    run: Run, script: Script, tmp_path: Path
) -> None:
    authority = Authority()
    pair = authority.pair()
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    server, port = serve(script, credentials=credentials)
    roots = tmp_path / "ca.pem"
    roots.write_bytes(authority.pem)
    call = ("jobs", "list", "--trainer", f"localhost:{port}")
    assert run(*call, "--root-certificates", str(roots)).status == 0
    assert run(*call).err.startswith("error: UNAVAILABLE")
    roots.write_bytes(Authority().pem)
    assert run(*call, "--root-certificates", str(roots)).err.startswith("error: UNAVAILABLE")
    server.stop(None).wait()


def test_the_digest_of_a_base(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(__file__).parents[2] / "examples" / "demo_base"
    arguments = ("base", "digest", str(base), "--data-dir", str(tmp_path))
    ran = run(*arguments)
    assert (ran.status, ran.err) == (0, "")
    digest = ran.out.strip()
    assert digest == load_base_model(str(base), tmp_path / "cache").digest
    assert (tmp_path / "cache" / "base-digests.json").is_file()
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", str(base))
    monkeypatch.setenv("TAILORBIRD_DATA_DIR", str(tmp_path))
    assert run("base", "digest", "--expect", digest).status == 0
    monkeypatch.setenv("TAILORBIRD_VALUES_KEYS", "BASE_MODEL_DIGEST=baseModel.digest")
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL_DIGEST", f"sha256:{'0' * 64}")
    ran = run("base", "digest")
    assert (ran.status, ran.out, ran.err.count("\n")) == (4, "", 1)
    assert "TAILORBIRD_BASE_MODEL_DIGEST (baseModel.digest in values.yaml): sha256:000" in ran.err
    assert digest in ran.err


def test_health(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = False
    server = HealthServer("::", 0, CollectorRegistry(), lambda: ready)
    server.start()
    monkeypatch.setenv("TAILORBIRD_HOST", "::")
    monkeypatch.setenv("TAILORBIRD_METRICS_PORT", str(server.port))
    ran = run("health")
    assert (ran.status, ran.err) == (
        1, f"error: http://[::1]:{server.port}/readyz answers 503\n"
    )  # fmt: skip
    ready = True
    assert run("health").status == 0
    server.stop()
    assert "does not answer" in run("health").err
    monkeypatch.delenv("TAILORBIRD_METRICS_PORT")
    assert run("health").status == 2


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird.cli", "base", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "digest" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "list"),
        ("datasets", "get", "chats"),
        ("jobs", "get", "one"),
        ("adapters", "get", "support"),
        ("adapters", "versions", "support"),
        ("adapters", "residency"),
        ("adapters", "promote", VERSIONS[0]),
        ("adapters", "report", VERSIONS[0]),
        ("feedback", "delete", f"{ADAPTER}/feedback/1"),
        ("info",),
    ],
)
def test_yaml_says_what_json_says(run: Run, arguments: tuple[str, ...]) -> None:
    found = json.loads(run(*arguments, "-o", "json").out)
    assert found
    assert yaml.safe_load(run(*arguments, "--output", "yaml").out) == found

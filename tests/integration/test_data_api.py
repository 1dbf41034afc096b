"""What is said of a dataset, and of a job's data, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import pytest

from tailorbird.rpc.status import reason_of
from tailorbird.tuning.v1 import dataset_pb2, job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.test_trainer_api import (
    ACME,
    VERSION,
    WITH_WEIGHTS,
    Trainer,
    create,
    metadata,
    refused,
    spec,
    trainer,
    upload,
    watch,
)
from tests.unit.trainer_svc.datasets.report.planted import clean, pairs
from tests.unit.trainer_svc.fakes import PREFLIGHT
from tests.unit.trainer_svc.values import make_manifest, put_version

__all__ = ["trainer"]

HELD = f"{ACME}/datasets/held"


def lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


async def put(trainer: Trainer, leaked: int = 0) -> None:
    """Upload 100 records, 5 of them twice, and 20 to validate on, of which some are leaked."""
    given = clean(100)
    given[90:95] = given[:5]
    await upload(trainer, lines(pairs(*given)))
    held = given[:leaked] + clean(20 - leaked, seed=1)
    await upload(trainer, lines(pairs(*held)), dataset="held")


async def test_a_dataset_s_report_is_found(trainer: Trainer) -> None:
    await put(trainer)
    name = f"{ACME}/datasets/chats"
    report = (await trainer.stub.GetDataset(pb.GetDatasetRequest(name=name))).dataset.report
    assert (report.records, report.compared_records) == (100, 100)
    assert report.duplicates.surplus == 5
    assert report.duplicates.pairs[0] == dataset_pb2.DatasetReport.Pair(
        line=91, earlier_line=1, similarity=1
    )
    assert [one.reason for one in report.warnings] == ["DUPLICATE_RECORDS"]
    assert sum(one.records for one in report.prompts.bins) == 100
    assert report.answers.longest >= report.answers.median > 0
    assert report.near_duplicates.compared == 95
    assert report.languages.sampled == 100
    assert [one.script for one in report.scripts] == ["Latin"]


async def test_every_part_of_a_report_is_sent(trainer: Trainer) -> None:
    given = clean(30)
    given[20] = (given[3][0], "x")
    given[21] = (given[4][0], given[4][1] + "!")
    dataset = await upload(trainer, lines(pairs(*given)))
    report = dataset.report
    assert report.contradictions.questions == 2
    assert [list(one.lines) for one in report.contradictions.examples] == [[4, 21], [5, 22]]
    assert list(report.short_answers.lines) == [21]
    (near,) = report.near_duplicates.pairs
    assert (near.line, near.earlier_line, near.similarity) == (22, 5, 1.0)
    labelled = ((question, "yes" if n < 28 else "no") for n, (question, _) in enumerate(clean(30)))
    report = (await upload(trainer, lines(pairs(*labelled)), dataset="labels")).report
    assert [(one.label, one.records) for one in report.labels] == [("yes", 28), ("no", 2)]
    assert [one.reason for one in report.warnings] == ["LABEL_IMBALANCE"]


async def test_a_job_s_history_begins_with_what_its_data_is_warned_of(trainer: Trainer) -> None:
    await put(trainer, leaked=3)
    request = pb.CreateJobRequest(
        parent=ACME, job=job_pb2.Job(spec=spec(validation_dataset=HELD)), request_id="r"
    )
    response = await trainer.stub.CreateJob(request)
    reasons = [one.reason for one in response.warnings]
    assert reasons == ["DUPLICATE_RECORDS", "VALIDATION_LEAKAGE"]
    assert "3 of 20 records (15.0%) of the validation data" in response.warnings[1].message
    again = await trainer.stub.CreateJob(request)
    assert (again.job.name, list(again.warnings)) == (response.job.name, [])
    events = await watch(trainer, response.job.name)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[0].state_changed.state == job_pb2.JOB_STATE_QUEUED
    assert [event.warning.reason for event in events[1:3]] == reasons
    assert [e.WhichOneof("event") for e in events].count("warning") == 2


@pytest.mark.parametrize("validate_only", [False, True])
async def test_validation_data_that_the_version_before_has_seen_is_warned_of(
    trainer: Trainer, validate_only: bool
) -> None:
    await put(trainer)
    old = await upload(trainer, lines(pairs(*clean(4, seed=1))), dataset="old")
    lineage = make_manifest(VERSION).lineage.model_copy(
        update={"training_dataset": old.name, "training_dataset_sha256": old.sha256}
    )
    await put_version(trainer.store, VERSION, **WITH_WEIGHTS, lineage=lineage)
    asked = spec(validation_dataset=HELD, from_version=VERSION)
    request = pb.CreateJobRequest(
        parent=ACME, job=job_pb2.Job(spec=asked), validate_only=validate_only
    )
    warnings = (await trainer.stub.CreateJob(request)).warnings
    (said,) = [one.message for one in warnings if one.reason == "VALIDATION_LEAKAGE"]
    assert said.startswith(f"4 of 20 records (20.0%) of the validation data ask what {VERSION}")
    asked.ClearField("validation_dataset")
    request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=asked), validate_only=True)
    reasons = [one.reason for one in (await trainer.stub.CreateJob(request)).warnings]
    assert reasons == ["DUPLICATE_RECORDS"]


async def test_a_dataset_s_report_is_a_page(trainer: Trainer) -> None:
    await put(trainer)
    request = pb.GetDatasetReportRequest(name=f"{ACME}/datasets/chats")
    response = await trainer.stub.GetDatasetReport(request)
    assert response.content_type == "text/html; charset=utf-8"
    page = response.content.decode()
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert "<b>DUPLICATE_RECORDS</b> 5 of 100 records (5.0%) repeat" in page
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.stub.GetDatasetReport(
            pb.GetDatasetReportRequest(name=f"{ACME}/datasets/none")
        )
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_check_returns_what_it_finds_and_a_job_is_not_checked(trainer: Trainer) -> None:
    await put(trainer)
    request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec()), validate_only=True)
    found = (await trainer.stub.CreateJob(request)).preflight
    assert found.total_steps == PREFLIGHT.total_steps
    assert found.training.account.records == PREFLIGHT.training.account.records
    assert not found.HasField("validation")
    made = await trainer.stub.CreateJob(
        pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec()))
    )
    assert not made.HasField("preflight")


async def test_validate_only_says_what_the_job_would_be_warned_of(trainer: Trainer) -> None:
    await put(trainer)
    request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec()), validate_only=True)
    response = await trainer.stub.CreateJob(request)
    assert [one.reason for one in response.warnings] == ["DUPLICATE_RECORDS"]


@pytest.mark.parametrize("validate_only", [False, True])
async def test_data_above_a_limit_makes_no_job(trainer: Trainer, validate_only: bool) -> None:
    await put(trainer, leaked=3)
    asked = spec(validation_dataset=HELD, data_limits={"max_leakage": 0.1})
    if validate_only:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(trainer, asked, validate_only=True)
        error = caught.value
    else:
        error = await refused(trainer, asked)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(error) == "DATA_LIMIT_EXCEEDED"
    assert metadata(error) == {
        "field": "job.spec.data_limits.max_leakage",
        "value": "0.15",
        "limit": "0.1",
        "fault": "VALIDATION_LEAKAGE",
    }
    assert "line 1 is training line 1" in str(error.details())


async def test_a_limit_is_kept_in_the_job_s_spec_and_silences_its_warning(
    trainer: Trainer,
) -> None:
    await put(trainer)
    limits = {"max_exact_duplicates": 0.5, "max_contradictions": 0.0}
    job = await create(trainer, spec(data_limits=limits))
    assert job.spec.data_limits == job_pb2.DataLimits(**limits)
    assert not job.spec.data_limits.HasField("max_leakage")
    events = await watch(trainer, job.name)
    assert "warning" not in [event.WhichOneof("event") for event in events]
    assert not (await create(trainer, spec())).spec.HasField("data_limits")


async def test_a_damaged_index_is_data_loss(trainer: Trainer) -> None:
    await put(trainer)
    dataset = (await trainer.stub.GetDataset(pb.GetDatasetRequest(name=HELD))).dataset
    await trainer.store.put(f"{HELD}/index-{dataset.sha256}-prompt_completion.bin", b"damaged")
    error = await refused(trainer, spec(validation_dataset=HELD))
    assert error.code() is grpc.StatusCode.DATA_LOSS
    assert reason_of(error) == "INDEX_INVALID"


async def test_data_of_an_earlier_release_is_warned_of(trainer: Trainer) -> None:
    await put(trainer)
    name = f"{ACME}/datasets/chats"
    meta = json.loads(await trainer.store.get(f"{name}/meta.json"))
    del meta["report"]
    await trainer.store.put(f"{name}/meta.json", json.dumps(meta).encode())
    found = (await trainer.stub.GetDataset(pb.GetDatasetRequest(name=name))).dataset
    assert not found.HasField("report")
    request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec()))
    response = await trainer.stub.CreateJob(request)
    assert [one.reason for one in response.warnings] == ["DATA_NOT_CHECKED"]

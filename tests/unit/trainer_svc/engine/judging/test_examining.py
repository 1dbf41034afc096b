"""A worker judges what it has trained: every candidate answers, and the verdict is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tailorbird.errors import FailedPrecondition
from tailorbird.manifest import REPORT
from tailorbird.names import VersionName
from tailorbird.personal_data.modes import Mode
from tailorbird.registry import AdapterRegistry, Route, RoutedVersion
from tests.unit.trainer_svc.engine.tiny import chats, dataset_ref, jsonl
from tests.unit.trainer_svc.engine.versions import DIGEST, VERSION, publish, trained
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.engine.data import chosen
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.events import JobWarning, Judged, Prepared, StepProgress
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.judgement.model import Candidate, EvaluationSpec
from trainer_svc.protocol import (
    Assignment,
    Cancel,
    Cancelled,
    Evaluating,
    Failed,
    Start,
    Trained,
    Upload,
    Uploaded,
)
from trainer_svc.report.model import Report

DATA = jsonl(chats(60))
SHORT = Hyperparameters(epochs=1, batch_tokens=256, checkpoint_interval=100)


@pytest.fixture
async def working(bank: AdapterBank, tmp_path: Path) -> AsyncIterator[Working]:
    working = Working(bank, tmp_path, digest=DIGEST)
    yield working
    await asyncio.to_thread(working.steps.close)


async def start(working: Working, data: bytes = DATA, **changes: Any) -> Assignment:
    fields: dict[str, Any] = {
        "base_model_digest": DIGEST,
        "hold_out": True,
        "validation_fraction": None,
        "hyperparameters": SHORT,
    }
    return await working.start("judged", data, **{**fields, **changes})


async def uploaded(working: Working, job: Assignment) -> tuple[Uploaded, Report]:
    await working.until(Trained, job.lease)
    version = "20260105T030405-judged-1"
    working.worker.take(Upload(lease=job.lease, version=version))
    done = await working.until(Uploaded, job.lease)
    report = await working.store.get(f"{job.adapter}/versions/{version}/{REPORT}")
    return done, Report.model_validate_json(report)


async def route(working: Working, generation: int = 3) -> None:
    version = VersionName.parse(VERSION)
    head = Route(
        generation=generation,
        versions=(RoutedVersion(version=version.version),),
        reason="promote",
        actor="somebody",
        create_time=datetime(2026, 1, 2, tzinfo=UTC),
        nonce="theirs",
    )
    await AdapterRegistry(working.store).append_route(version.adapter_name, head)


async def test_a_tenth_is_held_out_and_answered_by_all(working: Working) -> None:
    job = await start(working)
    judged = await working.until(Judged, job.lease)
    prepared = await working.until(Prepared, job.lease)
    assert prepared.validation is not None
    # Copies of a record are on one side.
    assert prepared.training.kept + prepared.validation.kept == 60
    assert 10 <= prepared.validation.kept <= 12
    found = judged.judgement
    assert found.records == prepared.validation.kept
    assert [each.candidate for each in found.candidates] == ["tuned", "base", "few_shot"]
    assert found.few_shot_examples > 0
    assert found.samples == ()
    done, report = await uploaded(working, job)
    assert report.judgement is not None
    assert len(report.judgement.samples) > 0
    assert report.judgement.model_copy(update={"samples": ()}) == found
    decision = done.manifest.evaluation.decision
    assert decision is not None
    assert (decision.promote, decision.reason) == (found.decision.promote, found.decision.reason)
    assert (decision.message, decision.route_generation) == (found.decision.message, 0)
    assert report.evaluation == done.manifest.evaluation
    assert [step for step, _, _ in report.training_curve] == list(
        range(1, done.manifest.evaluation.steps + 1)
    )
    assert report.validation_curve[0][0] == 0


async def test_the_data_is_downloaded_once_for_training_checking_and_judging(
    working: Working,
) -> None:
    named = EvaluationSpec(primary_metric="exact_match")
    validation = jsonl(chats(12, seed=5))
    held_out = dataset_ref(validation, "held-out")
    await working.store.seed(held_out.key, validation)
    job = await start(working, validation=held_out, evaluation=named)
    await working.until(Judged, job.lease)
    assert sorted(working.store.downloads) == sorted([job.training.key, held_out.key])
    again = await working.start(
        "again", DATA, base_model_digest=DIGEST, validation=held_out, hyperparameters=SHORT,
        validation_fraction=None, hold_out=True,
    )  # fmt: skip
    await working.until(Judged, again.lease)
    assert len(working.store.downloads) == 2


async def test_data_that_changed_in_the_store_is_not_judged_by(working: Working) -> None:
    job = await working.job("judged", DATA, base_model_digest=DIGEST, hold_out=True)
    await working.store.seed(job.training.key, DATA + b"\n")
    working.worker.take(Start(assignment=job))
    failed = await working.until(Failed, job.lease)
    assert failed.error.reason == "DATASET_CORRUPT"
    assert working.left_behind == []


async def test_the_report_has_what_was_found_of_personal_data(working: Working) -> None:
    found = PersonalDataReport(
        mode=Mode.SUBSTITUTE, records=2, counts={"email": 3}, lines={"email": (1, 4)}
    )
    training = dataset_ref(DATA).model_copy(update={"personal_data": found})
    job = await start(working, training=training)
    _, report = await uploaded(working, job)
    assert report.training_personal_data == found
    assert report.validation_personal_data is None


async def test_the_routed_version_answers_too(working: Working, bank: AdapterBank) -> None:
    await publish(working.store, trained(bank), target_modules=tuple(bank.target_modules))
    await route(working)
    job = await start(working)
    found = (await working.until(Judged, job.lease)).judgement
    routed = next(each for each in found.candidates if each.candidate == Candidate.ROUTED)
    assert routed.version == VERSION
    assert Candidate.ROUTED in [each.against for each in found.comparisons]
    done, _ = await uploaded(working, job)
    decision = done.manifest.evaluation.decision
    assert decision is not None
    assert decision.route_generation == 3
    assert not await working.attached(f"{job.lease.job}/routed")
    # It is judged as it was published, and left as it is.
    await AdapterRegistry(working.store).manifest(VersionName.parse(VERSION))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"base_model_digest": f"sha256:{'7' * 64}"}, "is of another base"),
        ({"rank": 64}, "lora_A"),
        (None, "VERSION_NOT_FOUND"),
    ],
)
async def test_a_routed_version_that_cannot_answer_is_told_and_blocks_promotion(
    working: Working, bank: AdapterBank, changes: dict[str, Any] | None, why: str
) -> None:
    if changes is not None:
        targets = {"target_modules": tuple(bank.target_modules)}
        await publish(working.store, trained(bank), **targets, **changes)
    await route(working)
    job = await start(working)
    found = (await working.until(Judged, job.lease)).judgement
    assert Candidate.ROUTED not in [each.candidate for each in found.candidates]
    (note,) = [note for note in found.notes if "routed version" in note]
    assert why in note or VERSION in note
    assert not found.decision.promote


async def test_too_few_records_are_all_trained_on(working: Working) -> None:
    job = await start(working, jsonl(chats(49)))
    prepared = await working.until(Prepared, job.lease)
    assert (prepared.training.kept, prepared.validation) == (49, None)
    done, report = await uploaded(working, job)
    assert report.judgement is None
    decision = done.manifest.evaluation.decision
    assert decision is not None
    assert (decision.promote, decision.reason) == (False, "NO_HELD_OUT_DATA")
    warnings = [each for each in working.of(job.lease) if isinstance(each, JobWarning)]
    assert "NO_HELD_OUT_DATA" in [each.reason for each in warnings]


async def test_records_that_are_all_the_same_have_none_to_spare(working: Working) -> None:
    job = await start(working, jsonl(chats(1) * 60))
    prepared = await working.until(Prepared, job.lease)
    assert (prepared.training.kept, prepared.validation) == (60, None)


async def test_a_job_that_is_not_to_be_judged_is_not(working: Working) -> None:
    job = await start(
        working,
        hold_out=False,
        validation_fraction=0.2,
        evaluation=EvaluationSpec(max_records=0),
    )
    done, report = await uploaded(working, job)
    assert (done.manifest.evaluation.decision, report.judgement) == (None, None)
    assert not any(isinstance(each, Judged) for each in working.of(job.lease))


async def test_validation_data_of_its_own_is_answered(working: Working) -> None:
    held_out = jsonl(chats(12, seed=9))
    ref = dataset_ref(held_out, "held")
    await working.store.seed(ref.key, held_out)
    job = await start(working, validation=ref, evaluation=EvaluationSpec(max_records=11))
    found = (await working.until(Judged, job.lease)).judgement
    assert found.records == 11


@pytest.mark.parametrize("training", ["text", "prompt_completion"])
async def test_validation_data_of_another_kind_is_answered_without_examples(
    working: Working, training: str
) -> None:
    held_out = jsonl(chats(12, seed=9))
    ref = dataset_ref(held_out, "held")
    await working.store.seed(ref.key, held_out)
    records = [
        {"text": f"the order {n}"} if training == "text" else {"prompt": f"{n}?", "completion": "y"}
        for n in range(60)
    ]
    data = jsonl(records)
    job = await start(
        working,
        data,
        training=dataset_ref(data, record_format=training),
        validation=ref,
        evaluation=EvaluationSpec(primary_metric="exact_match"),
    )
    found = (await working.until(Judged, job.lease)).judgement
    assert found.few_shot_examples == 0
    assert "another format" in found.few_shot_reason


async def test_a_metric_for_plain_text_fails_before_training(working: Working) -> None:
    data = jsonl([{"text": f"the order {number}"} for number in range(60)])
    ref = dataset_ref(data, record_format="text")
    spec = EvaluationSpec(primary_metric="exact_match")
    job = await start(working, data, training=ref, evaluation=spec)
    failed = await working.until(Failed, job.lease)
    assert "plain text has no answers" in failed.error.message


async def test_held_out_records_past_the_memory_for_them_are_left_out_and_told(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = chats(60)
    monkeypatch.setattr(chosen, "_HELD_BYTES", 3 * len(jsonl(records)) // 60)
    job = await start(working, jsonl(records), evaluation=EvaluationSpec(slice_fields=("number",)))
    found = (await working.until(Judged, job.lease)).judgement
    assert 0 < found.records <= 4
    (note,) = (note for note in found.notes if "answered" in note)
    assert f"{found.records} of 1" in note
    assert found.decision.reason == "TOO_FEW_RECORDS"


async def test_words_are_swapped_and_slices_told_where_they_are_asked_for(
    working: Working,
) -> None:
    records = chats(60)
    for number, record in enumerate(records):
        record["metadata"] = {"shop": "north" if number % 2 else "south"}
    spec = EvaluationSpec(slice_fields=("shop",), counterfactuals=(("order", "parcel"),))
    job = await start(working, jsonl(records), evaluation=spec)
    found = (await working.until(Judged, job.lease)).judgement
    assert found.counterfactuals is not None
    assert found.counterfactuals.pairs == found.records
    assert {each.value for each in found.slices} == {"north", "south"}


async def test_labels_are_scored_by_their_likelihood(working: Working) -> None:
    records = chats(60)
    for number, record in enumerate(records):
        record["messages"][1]["content"] = "late" if number % 2 else "early"
    job = await start(working, jsonl(records))
    found = (await working.until(Judged, job.lease)).judgement
    assert (found.kind, found.primary_metric) == ("labels", "label_accuracy")
    for each in found.candidates:
        assert each.label_accuracy_by_likelihood is not None
        assert each.calibration_error is not None
        assert 0 <= each.calibration_error <= 1


async def test_one_label_alone_has_no_likelihood(working: Working) -> None:
    records = chats(60)
    for record in records:
        record["messages"][1]["content"] = "late"
    job = await start(working, jsonl(records))
    found = (await working.until(Judged, job.lease)).judgement
    assert (found.kind, found.records >= 10) == ("labels", True)
    assert {each.label_accuracy_by_likelihood for each in found.candidates} == {None}
    assert {each.calibration_error for each in found.candidates} == {None}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (EvaluationSpec(primary_metric="label_accuracy"), "METRIC_NOT_APPLICABLE"),
        (EvaluationSpec(primary_metric="field_accuracy"), "METRIC_NOT_APPLICABLE"),
    ],
)
async def test_a_metric_that_the_answers_do_not_have_fails_before_training(
    working: Working, spec: EvaluationSpec, reason: str
) -> None:
    job = await start(working, evaluation=spec)
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == (reason, False)
    assert spec.primary_metric in failed.error.message
    assert not any(isinstance(each, StepProgress | Prepared) for each in working.of(job.lease))


async def test_a_schema_that_no_answer_meets_fails_before_training(working: Working) -> None:
    records = chats(60)
    for number, record in enumerate(records):
        record["messages"][1]["content"] = json.dumps({"number": number})
    schema = json.dumps({"type": "object", "required": ["price"]})
    job = await start(working, jsonl(records), evaluation=EvaluationSpec(json_schema=schema))
    failed = await working.until(Failed, job.lease)
    assert failed.error.reason == "SCHEMA_MET_BY_NONE"


async def test_a_store_that_is_down_fails_the_attempt_and_leaves_nothing(
    working: Working, bank: AdapterBank
) -> None:
    await publish(working.store, trained(bank), target_modules=tuple(bank.target_modules))
    await route(working)
    working.store.down = "/routes/"
    job = await start(working)
    failed = await working.until(Failed, job.lease)
    assert failed.retryable
    assert not working.left_behind
    assert not await working.attached(job.lease.job)
    assert not await working.attached(f"{job.lease.job}/routed")


async def test_a_cancelled_examination_leaves_nothing(
    working: Working, bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(working.store, trained(bank), target_modules=tuple(bank.target_modules))
    await route(working)
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(*_: Any, **__: Any) -> Any:
        loop.call_soon_threadsafe(began.set)
        while True:
            yield

    monkeypatch.setattr("trainer_svc.engine.judging.examination.generate", endless)
    job = await start(working)
    await working.until(Evaluating, job.lease)
    async with asyncio.timeout(60):
        await began.wait()
    assert await working.attached(f"{job.lease.job}/routed")
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)
    assert not working.left_behind
    assert not await working.attached(job.lease.job)
    assert not await working.attached(f"{job.lease.job}/routed")


async def test_a_cancellation_while_the_routed_version_is_taken_off_leaves_nothing(
    working: Working, bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(working.store, trained(bank), target_modules=tuple(bank.target_modules))
    await route(working)
    asked, go_on = asyncio.Event(), Event()
    loop, call = asyncio.get_running_loop(), working.steps.call

    def asking(action: Any) -> Any:
        answer = call(action)
        asked.set()
        return answer

    def broken(*_: Any, **__: Any) -> Any:
        yield
        # The next order waits behind this one.
        call(lambda: go_on.wait(60))
        loop.call_soon_threadsafe(monkeypatch.setattr, working.steps, "call", asking)
        raise FailedPrecondition("too long", reason="OUT_OF_MEMORY")

    monkeypatch.setattr("trainer_svc.engine.judging.examination.generate", broken)
    job = await start(working)
    async with asyncio.timeout(60):
        await asked.wait()
    working.worker.take(Cancel(lease=job.lease))
    for _ in range(5):
        await asyncio.sleep(0)
    go_on.set()
    await working.until(Cancelled, job.lease)
    assert not await working.attached(f"{job.lease.job}/routed")

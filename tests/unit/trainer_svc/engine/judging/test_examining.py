"""A worker judges what it has trained: every candidate answers, and the verdict is told."""

from __future__ import annotations

import json

import pytest

from tailorbird.personal_data.modes import Mode
from tests.unit.trainer_svc.engine.judging.examined import DATA, SHORT, start, uploaded
from tests.unit.trainer_svc.engine.tiny import chats, dataset_ref, jsonl
from tests.unit.trainer_svc.engine.versions import DIGEST
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.engine.data import chosen
from trainer_svc.jobs.events import JobWarning, Judged, Prepared, StepProgress
from trainer_svc.judgement.model import EvaluationSpec
from trainer_svc.protocol import (
    Failed,
    Start,
)


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

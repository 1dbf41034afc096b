"""A version is not judged on what it was trained on, and its report says so."""

from __future__ import annotations

import pytest

from tests.unit.trainer_svc.engine.indexed import numbered, seeded
from tests.unit.trainer_svc.engine.judging.examined import start, uploaded
from tests.unit.trainer_svc.engine.tiny import jsonl
from tests.unit.trainer_svc.engine.versions import VERSION, publish, trained
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.events import JobWarning, Judged
from trainer_svc.protocol import AncestorRef, Assignment

RECORDS = numbered(0, 60)
EARLIER = f"{VERSION}0"
WARNED = JobWarning(reason="VALIDATION_LEAKAGE", message="of these")


async def leaking(
    working: Working, first: int, last: int, *, damaged: bool = False, hold_out: bool = True
) -> Assignment:
    """Start a job that trains on orders 0 to 59 and is validated on others."""
    training = await seeded(working.store, RECORDS, "train")
    validation = await seeded(working.store, numbered(first, last), "held")
    if damaged:
        await working.store.seed(validation.index_key, b"no index")
    return await start(
        working,
        jsonl(RECORDS),
        training=training,
        validation=validation,
        hold_out=hold_out,
        data_warnings=(WARNED,),
    )


@pytest.mark.parametrize("hold_out", [True, False])
async def test_the_training_data_as_validation_data_judges_nothing(
    working: Working, hold_out: bool
) -> None:
    job = await leaking(working, 0, 60, hold_out=hold_out)
    done, report = await uploaded(working, job)
    decision = done.manifest.evaluation.decision
    assert decision is not None
    assert (decision.promote, decision.reason) == (False, "NO_HELD_OUT_DATA")
    assert decision.message.startswith("VALIDATION_LEAKAGE: 60 of 60 held-out records")
    assert report.evaluation.decision == decision
    assert report.judgement is None
    assert report.data_warnings == (WARNED,)
    told = [each for each in working.of(job.lease) if isinstance(each, JobWarning)]
    # Before it is trained, where somebody waits for a promotion, and after.
    reasons = [each.reason for each in told]
    assert reasons.count("NO_HELD_OUT_DATA") == 1 + hold_out


async def test_a_few_that_are_left_are_too_few(working: Working) -> None:
    job = await leaking(working, 51, 69)
    found = (await working.until(Judged, job.lease)).judgement
    assert found.records == 9
    assert (found.decision.promote, found.decision.reason) == (False, "TOO_FEW_RECORDS")
    assert "VALIDATION_LEAKAGE: 9 of 18 held-out records" in found.decision.message


async def test_enough_that_are_left_are_judged_on_alone(working: Working) -> None:
    job = await leaking(working, 50, 75)
    found = (await working.until(Judged, job.lease)).judgement
    assert found.records == 15
    (note,) = found.notes
    assert note.startswith("VALIDATION_LEAKAGE: 10 of 25 held-out records are not judged on")
    assert "TOO_FEW_RECORDS" not in found.decision.reasons
    # Examples differ from all that is left.
    assert found.few_shot_examples > 0
    _, report = await uploaded(working, job)
    assert report.judgement is not None
    assert min(sample.line for sample in report.judgement.samples) > 10
    assert report.judgement.notes == found.notes


async def test_what_cannot_be_known_is_noted(working: Working) -> None:
    job = await leaking(working, 50, 75, damaged=True)
    found = (await working.until(Judged, job.lease)).judgement
    assert found.records == 25
    (note,) = found.notes
    assert note.startswith("it is not known of all held-out records whether training has asked")
    assert "the digests of a dataset are lost" in note


async def test_what_the_version_before_was_trained_on_is_not_judged_on(
    bank: AdapterBank, working: Working
) -> None:
    await publish(working.store, trained(bank))
    training = await seeded(working.store, RECORDS, "train")
    validation = await seeded(working.store, numbered(58, 75), "held")
    old = await seeded(working.store, numbered(70, 74), "old")
    before = AncestorRef(
        version=VERSION, dataset=old.name, sha256=old.sha256, index_key=old.index_key
    )
    job = await start(
        working,
        jsonl(RECORDS),
        training=training,
        validation=validation,
        from_version=VERSION,
        ancestors=(before, AncestorRef(version=EARLIER)),
    )
    found = (await working.until(Judged, job.lease)).judgement
    assert found.records == 11
    leaked, unknown = found.notes
    assert leaked.startswith("VALIDATION_LEAKAGE: 6 of 17 held-out records are not judged on, for ")
    assert "the training data asks what 2 of them ask, and the data of the version" in leaked
    assert leaked.endswith(" 4")
    assert unknown == (
        "it is not known of all held-out records whether training has asked the same: what "
        f"{EARLIER} was trained on is known no more"
    )
    _, report = await uploaded(working, job)
    assert report.judgement is not None
    asked = {sample.line for sample in report.judgement.samples}
    assert asked <= {*range(3, 13), 17}

"""An examination comes to a decision, also where somebody could not be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from tailorbird.errors import DataCorrupt, FailedPrecondition, NotFound, StoreUnavailable
from tailorbird.names import VersionName
from tests.unit.trainer_svc.engine.tiny import assignment
from tests.unit.trainer_svc.engine.versions import VERSION
from tests.unit.trainer_svc.golden import sample
from trainer_svc.engine.data.chosen import Chosen
from trainer_svc.engine.judging.examination import Examiner
from trainer_svc.engine.judging.routed import Routed
from trainer_svc.engine.judging.verdict import Verdict, verdict
from trainer_svc.jobs.events import JobWarning, Judged
from trainer_svc.jobs.held_out import NO_ANSWERS, none_held_out, none_left
from trainer_svc.judgement.model import Judgement, Sample
from trainer_svc.protocol import Assignment

FOUND = Judgement.model_validate(sample("judged.json")["judgement"])
CHOSEN = Chosen(held_out=(1, 2), training=(3,))
ASSIGNED = assignment(b"")


@dataclass(frozen=True)
class Examined:
    """An examiner that has found this out."""

    found: tuple[Judgement, Routed] | Exception
    chosen: Chosen = CHOSEN
    assignment: Assignment = ASSIGNED

    async def examine(self) -> tuple[Judgement, Routed]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


async def of(found: Any, **more: Any) -> Verdict:
    return await verdict(cast("Examiner", Examined(found, **more)))


async def test_the_decision_names_the_route_that_it_was_made_against() -> None:
    told = await of((FOUND, Routed(generation=7)))
    assert (told.decision.promote, told.decision.route_generation) == (True, 7)
    assert told.decision.message == FOUND.decision.message


async def test_samples_stand_in_the_report_alone() -> None:
    sampled = FOUND.model_copy(
        update={"samples": (Sample(line=1, prompt="p", expected="e", answers={}),)}
    )
    told = await of((sampled, Routed()))
    assert told.judgement == sampled
    assert isinstance(told.event, Judged)
    assert told.event.judgement == FOUND


@pytest.mark.parametrize("reason", ["ROUTED_NOT_JUDGED", "BASE_CHANGED"])
async def test_nothing_takes_the_place_of_a_version_that_was_not_asked(reason: str) -> None:
    routed = Routed(7, VersionName.parse(VERSION), refusal="it is broken", reason=reason)
    told = await of((FOUND, routed))
    assert (told.decision.promote, told.decision.reason) == (False, reason)
    assert told.judgement is not None
    assert told.judgement.decision.reasons == (reason,)
    assert told.judgement.notes[-1] == told.decision.message


async def test_what_speaks_against_it_anyway_stays_the_reason() -> None:
    worse = FOUND.decision.model_copy(update={"promote": False, "reason": "FORGOTTEN"})
    routed = Routed(7, VersionName.parse(VERSION), refusal="it is broken")
    told = await of((FOUND.model_copy(update={"decision": worse}), routed))
    assert told.decision.reason == "FORGOTTEN"
    assert told.judgement is not None
    assert "it is broken" in told.judgement.notes[-1]


@pytest.mark.parametrize("why", [none_held_out(20), none_left("60 of 60"), NO_ANSWERS])
async def test_without_answers_there_is_nothing_to_decide_by(why: JobWarning) -> None:
    told = await of(AssertionError(), chosen=Chosen(held_out=(), training=(1,), unjudged=why))
    decided = (told.decision.promote, told.decision.reason, told.decision.message)
    assert decided == (False, why.reason, why.message)
    assert told.judgement is None
    assert told.event == why


@pytest.mark.parametrize(
    "error",
    [
        FailedPrecondition("too long", reason="OUT_OF_MEMORY"),
        NotFound("tenants/acme/datasets/chats", reason="DATASET_NOT_FOUND"),
        DataCorrupt("no line 7", reason="DATASET_CORRUPT"),
    ],
)
async def test_what_cannot_be_examined_is_published_and_not_promoted(error: Exception) -> None:
    told = await of(error)
    assert (told.decision.promote, told.decision.reason) == (False, "NOT_JUDGED")
    assert error.reason in told.decision.message  # type: ignore[attr-defined]


async def test_a_fault_of_the_judge_loses_nothing_that_was_trained() -> None:
    told = await of(KeyError("instruction"))
    assert (told.decision.promote, told.decision.reason) == (False, "NOT_JUDGED")


async def test_a_store_that_is_down_is_tried_again() -> None:
    with pytest.raises(StoreUnavailable):
        await of(StoreUnavailable("down"))

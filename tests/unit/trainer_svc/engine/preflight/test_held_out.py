"""A check says before anything is trained that the version will take no traffic by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer_svc.engine.indexed import numbered, seeded
from tests.unit.trainer_svc.engine.preflight.test_check import Checking, base, chats
from tests.unit.trainer_svc.engine.tiny import assignment
from trainer_svc.engine.preflight.base import DescribedBase
from trainer_svc.judgement.model import EvaluationSpec

__all__ = ["base"]


@pytest.fixture
def checking(base: DescribedBase, tmp_path: Path) -> Checking:
    return Checking(base, tmp_path)


async def told(
    checking: Checking,
    training: list[dict[str, Any]],
    validation: list[dict[str, Any]] | None = None,
    format_: str = "chat",
    **asked: Any,
) -> dict[str, str]:
    """Return what a check warns of, by its reason, of a promotion by itself."""
    given: dict[str, Any] = {"validation_fraction": None, "hold_out": True, **asked}
    given["training"] = await seeded(checking.store, training, "train", format_)
    if validation is not None:
        given["validation"] = await seeded(checking.store, validation, "held", format_)
    found = await checking.run(assignment(b"").model_copy(update=given))
    reasons = {"NO_HELD_OUT_DATA", "NO_ANSWERS", "TOO_FEW_RECORDS"}
    return {each.reason: each.message for each in found.warnings if each.reason in reasons}


async def test_nothing_held_out_is_warned_of_where_it_would_be_judged(checking: Checking) -> None:
    found = await told(checking, chats(20))
    assert list(found) == ["NO_HELD_OUT_DATA"]
    assert "at least 50 training records" in found["NO_HELD_OUT_DATA"]
    assert "20 can be trained on" in found["NO_HELD_OUT_DATA"]
    assert await told(checking, chats(20), validation_fraction=0.5) == {}
    assert await told(checking, chats(20), hold_out=False) == {}
    assert await told(checking, chats(60)) == {}


async def test_records_that_are_all_the_same_are_called_so(checking: Checking) -> None:
    found = await told(checking, chats(1) * 100)
    assert list(found) == ["NO_HELD_OUT_DATA"]
    assert "the 100 training records are all the same" in found["NO_HELD_OUT_DATA"]
    assert "at least 50" not in found["NO_HELD_OUT_DATA"]


async def test_plain_text_has_no_answers_however_much_of_it_there_is(checking: Checking) -> None:
    texts = [{"text": f"the order {number}"} for number in range(60)]
    assert list(await told(checking, texts, format_="text")) == ["NO_ANSWERS"]
    assert list(await told(checking, texts[:20], format_="text")) == ["NO_ANSWERS"]
    assert await told(checking, texts, format_="text", hold_out=False) == {}


@pytest.mark.parametrize(("count", "warned"), [(9, ["TOO_FEW_RECORDS"]), (10, [])])
async def test_fewer_than_ten_records_are_too_few(
    checking: Checking, count: int, warned: list[str]
) -> None:
    named = await told(checking, numbered(0, 60), numbered(100, 100 + count))
    assert list(named) == warned
    held = await told(checking, chats(20), validation_fraction=count / 20)
    assert list(held) == warned
    assert not named or f"fewer than 10 held-out records, {count}," in named["TOO_FEW_RECORDS"]


async def test_what_training_sees_is_not_judged_on(checking: Checking) -> None:
    found = await told(checking, numbered(0, 60), numbered(0, 60))
    assert list(found) == ["NO_HELD_OUT_DATA"]
    assert found["NO_HELD_OUT_DATA"].startswith("VALIDATION_LEAKAGE: 60 of 60 held-out records")
    found = await told(checking, numbered(0, 60), numbered(51, 69))
    assert list(found) == ["TOO_FEW_RECORDS"]
    assert "VALIDATION_LEAKAGE: 9 of 18 held-out records" in found["TOO_FEW_RECORDS"]
    assert await told(checking, numbered(0, 60), numbered(50, 70)) == {}
    assert await told(checking, numbered(0, 60), numbered(0, 60), hold_out=False) == {}


async def test_a_job_that_is_not_judged_is_warned_of_nothing(checking: Checking) -> None:
    assert await told(checking, chats(20), evaluation=EvaluationSpec(max_records=0)) == {}
    held = numbered(100, 160)
    assert await told(checking, chats(20), held, evaluation=EvaluationSpec(max_records=0)) == {}

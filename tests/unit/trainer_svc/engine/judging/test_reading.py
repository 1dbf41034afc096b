"""What a job is examined on is made of its records, of plain prompts as of chats."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.trainer_svc.engine.tiny import CONTEXT, chats, make_tokenizer
from trainer_svc.engine.judging.questions import Asker
from trainer_svc.engine.judging.reading import Material, material
from trainer_svc.judgement.model import EvaluationSpec
from trainer_svc.judgement.safety import SafetyScreen

PLAIN = {
    number: {"prompt": f"Where is order {number}?", "completion": " on its way"}
    for number in range(3, 6)
}
CHATS = dict(enumerate(chats(3), start=3))


def read(records: dict[int, Any], format_: str, **asked: Any) -> tuple[Material, Asker]:
    asker = Asker(make_tokenizer(), format_, CONTEXT)
    screen = SafetyScreen({"delays": {"words": ["way"]}})
    return material(records, {}, asker, asker, EvaluationSpec(**asked), screen, 0), asker


@pytest.mark.parametrize(
    ("records", "format_"), [(PLAIN, "prompt_completion"), (CHATS, "chat")], ids=["plain", "chat"]
)
def test_words_are_swapped_in_the_question_alone(records: dict[int, Any], format_: str) -> None:
    found, asker = read(records, format_, counterfactuals=(("order", "parcel"),))
    assert [each.line for each in found.swapped] == [3, 4, 5]
    for ids, question in zip(found.swapped_ids, found.questions.all, strict=True):
        assert asker.text(ids) == asker.text(question.asked).replace("order", "parcel")
        assert "parcel" not in question.prompt


def test_nothing_is_swapped_unless_it_is_asked_for() -> None:
    found, _ = read(PLAIN, "prompt_completion")
    assert (found.swapped, found.swapped_ids) == ([], [])


def test_the_screen_tells_the_lines_of_answers() -> None:
    found, _ = read(PLAIN, "prompt_completion")
    assert [(each.where, each.lines) for each in found.findings] == [("validation", (3, 4, 5))]

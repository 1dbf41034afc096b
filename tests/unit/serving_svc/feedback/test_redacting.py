"""What the process that looks for personal data keeps of the records it was asked about."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from serving_svc.feedback import redacting
from serving_svc.feedback.redacting import Asked
from tailorbird.errors import FailedPrecondition
from tailorbird.feedback import Answer, FeedbackRecord
from tailorbird.pieces import Done
from tests.unit.tailorbird.feedback_values import a_record

Work = Generator[None, None, FeedbackRecord]


def work(record: FeedbackRecord) -> Work:
    """Pause once, and fail at what is bad."""
    yield
    if record.answer.content == "bad":
        raise FailedPrecondition("is bad")
    return record


def test_of_a_record_that_is_answered_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redacting, "_PIECE_SECONDS", 0)
    works: dict[int, Work] = {}
    good, bad = a_record(), a_record(answer=Answer(content="bad"))
    for number, record in enumerate((good, bad, good)):
        assert redacting._answer(works, work, Asked(number, record)) is None
    assert redacting._answer(works, work, Asked(0)) == Done(good)
    assert isinstance(redacting._answer(works, work, Asked(1)), FailedPrecondition)
    assert list(works) == [2]
    # Nobody waits for the last any more, nor for one that was answered.
    redacting._answer(works, work, Asked(3, good, (2, 0)))
    assert list(works) == [3]

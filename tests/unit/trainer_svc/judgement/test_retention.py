"""What is left of general ability, and when too little is."""

from __future__ import annotations

import math

import pytest

from trainer_svc.judgement.model import EvaluationSpec, Retention
from trainer_svc.judgement.retention import retention_failures, retention_of

SPEC = EvaluationSpec(max_retention_loss=0.5, max_forgotten=0.2)


def kept(loss: float, forgotten: int) -> Retention:
    return Retention(texts=10, base_loss=2.0, tuned_loss=loss, questions=10, forgotten=forgotten)


def test_texts_weigh_by_their_tokens_and_unknown_questions_do_not_count() -> None:
    found = retention_of(
        [1.0, 2.0], [1.0, 6.0], [30, 10], [True, True, False, True], [True, False, False, False]
    )
    assert found == Retention(texts=2, base_loss=1.25, tuned_loss=2.25, questions=3, forgotten=2)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e30])
def test_a_loss_that_is_no_number_can_be_stored_and_fails(loss: float) -> None:
    found = retention_of([1.0], [loss], [5], [], [])
    assert Retention.model_validate_json(found.model_dump_json()).tuned_loss == 1000
    assert [reason for reason, _ in retention_failures(SPEC, found)] == ["RETENTION_LOSS"]


def test_nothing_was_asked() -> None:
    found = retention_of([], [], [], [], [])
    assert (found.base_loss, found.questions) == (0, 0)
    assert retention_failures(SPEC, found) == []


def test_lists_of_other_lengths() -> None:
    with pytest.raises(ValueError, match="zip"):
        retention_of([1.0], [], [1], [], [])
    with pytest.raises(ValueError, match="zip"):
        retention_of([], [], [], [True], [])


@pytest.mark.parametrize(
    ("loss", "forgotten", "reasons"),
    [
        (2.5, 2, []),
        (1.0, 0, []),
        (2.51, 0, ["RETENTION_LOSS"]),
        (2.0, 3, ["FORGOTTEN"]),
        (3.0, 10, ["RETENTION_LOSS", "FORGOTTEN"]),
    ],
)
def test_bounds(loss: float, forgotten: int, reasons: list[str]) -> None:
    failures = retention_failures(SPEC, kept(loss, forgotten))
    assert [reason for reason, _ in failures] == reasons


def test_the_messages_say_values_and_limits() -> None:
    messages = [message for _, message in retention_failures(SPEC, kept(3.0, 4))]
    assert messages[0].endswith(
        "rose by 1.000 nats per token (2.000 to 3.000); at most 0.5 is allowed"
    )
    assert messages[1] == (
        "4 of 10 general questions that the base gets right are now wrong; at most 20% may be"
    )

"""Which data ends a job before it trains, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from tailorbird.errors import FailedPrecondition
from trainer_svc.jobs.data_account import check_too_long, nothing_kept
from trainer_svc.jobs.events import DataReport
from trainer_svc.jobs.model import DataPolicy, TooLong

NAME = "tenants/acme/datasets/chats"


def report(**figures: Any) -> DataReport:
    none: dict[str, Any] = {
        "records": 60, "kept": 3, "dropped_too_long": 0, "dropped_lines": (),
        "trained_tokens": 1, "masked_tokens": 1,
    }  # fmt: skip
    return DataReport(**none | figures)


DROPPED = report(dropped_too_long=57, dropped_lines=tuple(range(4, 61)))
CUT = report(kept=55, truncated=7, truncated_lines=(1, 2, 9, 10, 11, 30, 60))


def policy(too_long: TooLong, share: float = 1.0) -> DataPolicy:
    return DataPolicy(too_long=too_long, max_too_long_fraction=share)


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        (report(), policy(TooLong.ERROR, 0.0)),
        (report(), policy(TooLong.DROP, 0.0)),
        (DROPPED, DataPolicy()),
        (DROPPED, policy(TooLong.DROP, 0.95)),
        (CUT, policy(TooLong.TRUNCATE, 7 / 60)),
        # What has no answer that is trained is not too long.
        (report(dropped_nothing_to_train=57), policy(TooLong.ERROR)),
    ],
)
def test_what_is_allowed_trains(found: DataReport, asked: DataPolicy) -> None:
    check_too_long(found, asked, 64, NAME)


@pytest.mark.parametrize(
    ("found", "asked", "reason", "words"),
    [
        (
            DROPPED,
            policy(TooLong.DROP, 0.1),
            "TOO_MANY_TOO_LONG",
            "57 of 60 records of tenants/acme/datasets/chats are longer than max_sequence_length, "
            "64 tokens: 95.0%, more than data.max_too_long_fraction, 10.0%. Shorten them, raise "
            "max_sequence_length if the base takes more, or let the job's data.too_long and its "
            "limit allow it (lines 4-60)",
        ),
        (CUT, policy(TooLong.TRUNCATE, 0.1), "TOO_MANY_TOO_LONG", "(lines 1-2, 9-11, 30, 60)"),
        (CUT, policy(TooLong.TRUNCATE, 0.0), "TOO_MANY_TOO_LONG", "7 of 60"),
        (DROPPED, policy(TooLong.ERROR), "RECORDS_TOO_LONG", "data.too_long, ERROR, allows none"),
    ],
)
def test_what_is_not_allowed_is_told(
    found: DataReport, asked: DataPolicy, reason: str, words: str
) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        check_too_long(found, asked, 64, NAME)
    assert caught.value.reason == reason
    assert words in caught.value.message
    told = caught.value.metadata
    assert (told["count"], told["records"]) == (str(found.too_long), "60")
    assert told["max_sequence_length"] == "64"
    if reason == "TOO_MANY_TOO_LONG":
        assert float(told["share"]) == pytest.approx(found.too_long / 60, rel=1e-3)
        assert told["max_too_long_fraction"] == f"{asked.max_too_long_fraction:g}"


def test_the_words_have_room_for_a_hundred_lines_apart() -> None:
    lines = tuple(range(1_000_001, 1_000_201, 2))
    found = report(records=2_000_000, dropped_too_long=10**6, dropped_lines=lines)
    with pytest.raises(FailedPrecondition) as caught:
        check_too_long(found, policy(TooLong.ERROR), 64, NAME)
    assert len(caught.value.message) < 1300
    assert caught.value.message.endswith("1000199 and 999900 more)")


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (
            report(records=57, dropped_too_long=57, dropped_lines=tuple(range(1, 58))),
            ["57 are longer than max_sequence_length, 64 tokens (lines 1-57)"],
        ),
        (
            report(
                records=3, truncated=2, truncated_lines=(1, 3), dropped_nothing_to_train=3,
                nothing_to_train_lines=(1, 2, 3),
            ),
            [
                "2 have no answer in their first 64 tokens, max_sequence_length (lines 1, 3)",
                "1 have nothing to train: answers of the weight 0 are not trained",
            ],
        ),
    ],
)  # fmt: skip
def test_a_dataset_without_anything_to_train_says_why(left: DataReport, words: list[str]) -> None:
    error = nothing_kept(left, 64, NAME)
    assert error.reason == "NO_TRAINABLE_RECORDS"
    assert error.message == (
        f"none of the {left.records} records of {NAME} can be trained on: {'; '.join(words)}"
    )

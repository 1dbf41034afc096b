"""What is said of held-out records that are not judged on."""

from __future__ import annotations

import pytest

from trainer_svc.jobs.held_out import seen

NOT_JUDGED = "held-out records are not judged on, for"
EARLIER = "the data of the version that training begins with, or of one before it,"


@pytest.mark.parametrize(
    ("own", "inherited", "leaked", "said"),
    [
        (0, 0, 0, ""),
        (3, 0, 3, f"3 of 20 {NOT_JUDGED} the training data asks what they ask"),
        (0, 4, 4, f"4 of 20 {NOT_JUDGED} {EARLIER} asks what they ask"),
        # Two are in both.
        (
            3,
            4,
            5,
            f"5 of 20 {NOT_JUDGED} the training data asks what 3 of them ask, and {EARLIER} 4",
        ),
    ],
)
def test_where_held_out_records_were_asked_before_is_said(
    own: int, inherited: int, leaked: int, said: str
) -> None:
    told = seen(own, inherited, leaked, 20)
    assert told == (said and f"VALIDATION_LEAKAGE: {said}")

"""What speaks against a promotion, in which order, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from trainer_svc.judgement.decision import decide
from trainer_svc.judgement.model import (
    Candidate,
    Comparison,
    Counterfactuals,
    Decision,
    EvaluationSpec,
    Interval,
    Retention,
    SafetyFinding,
    SliceFigures,
)


def against(other: Candidate, low: float, high: float = 0.5) -> Comparison:
    value = (low + high) / 2
    return Comparison(against=other, difference=Interval(value=value, low=low, high=high))


BETTER = [
    against(Candidate.BASE, 0.2),
    against(Candidate.FEW_SHOT, 0.1),
    against(Candidate.ROUTED, 0.01),
]
WORSE_SLICE = SliceFigures(
    field="f", value="v", records=20, scores={}, drop=Interval(value=0.4, low=0.2, high=0.6)
)
FORGOT = Retention(texts=9, base_loss=2, tuned_loss=2, questions=10, forgotten=9)
LOST = Retention(texts=9, base_loss=2, tuned_loss=9, questions=10, forgotten=0)
UNSAFE = SafetyFinding(category="violence", where="tuned", count=2)


def decided(spec: EvaluationSpec | None = None, **changes: Any) -> Decision:
    values: dict[str, Any] = {"records": 50, "metric": "token_f1", "comparisons": BETTER, **changes}
    return decide(spec or EvaluationSpec(), **{"measured": values["records"], **values})


def test_better_than_all_is_promoted_with_the_figures() -> None:
    found = decided()
    assert found.promote
    assert (found.reason, found.reasons) == ("BETTER", ())
    assert found.message == (
        "token_f1 +0.350 [+0.200, +0.500] against the base; token_f1 +0.300 [+0.100, +0.500]"
        " against the base with a few-shot prompt; token_f1 +0.255 [+0.010, +0.500] against the"
        " routed version"
    )


def test_the_base_alone_is_enough_to_be_better_than() -> None:
    assert decided(comparisons=BETTER[:1]).promote


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"records": 0, "comparisons": []}, "NO_HELD_OUT_DATA"),
        ({"records": 9}, "TOO_FEW_RECORDS"),
        ({"comparisons": [against(Candidate.BASE, 0.0)]}, "NOT_BETTER_THAN_BASE"),
        ({"comparisons": [against(Candidate.FEW_SHOT, -0.1)]}, "NOT_BETTER_THAN_FEW_SHOT"),
        ({"comparisons": [against(Candidate.ROUTED, -0.1)]}, "NOT_BETTER_THAN_ROUTED"),
        ({"comparisons": [against(Candidate.ROUTED, 0.0)]}, "NOT_BETTER_THAN_ROUTED"),
        ({"comparisons": [against(Candidate.ROUTED, 0.0, 0.0)]}, "TIED_WITH_ROUTED"),
        ({"comparisons": [against(Candidate.BASE, 0.0, 0.0)]}, "NOT_BETTER_THAN_BASE"),
        ({"slices": [WORSE_SLICE]}, "SLICE_WORSE"),
        ({"retention": LOST}, "RETENTION_LOSS"),
        ({"retention": FORGOT}, "FORGOTTEN"),
        ({"safety": [UNSAFE]}, "UNSAFE"),
    ],
)
def test_each_reason_alone_keeps_it_from_promotion(changes: dict[str, Any], reason: str) -> None:
    found = decided(**changes)
    assert not found.promote
    assert found.reason == reason
    assert found.reasons == (reason,)


def test_ten_records_are_enough() -> None:
    assert decided(records=10).promote


@pytest.mark.parametrize(
    ("most", "changed", "promote"), [(None, 10, True), (0.2, 2, True), (0.2, 3, False)]
)
def test_changed_answers_count_where_a_bound_is_set(
    most: float | None, changed: int, promote: bool
) -> None:
    spec = EvaluationSpec(max_counterfactual_changes=most)
    found = decided(spec, counterfactuals=Counterfactuals(pairs=10, changed=changed))
    assert found.promote is promote
    if not promote:
        assert found.reason == "COUNTERFACTUAL_CHANGES"
        assert found.message.startswith("3 of 10 answers change")
        assert found.message.endswith("at most 20% may")


def test_everything_is_told_in_order_and_within_bounds() -> None:
    found = decided(
        EvaluationSpec(max_counterfactual_changes=0),
        records=5,
        comparisons=[against(other, -0.2) for other in list(Candidate)[1:]],
        slices=[WORSE_SLICE] * 40,
        retention=Retention(texts=9, base_loss=2, tuned_loss=9, questions=10, forgotten=9),
        safety=[UNSAFE],
        counterfactuals=Counterfactuals(pairs=1, changed=1),
    )
    assert found.reasons == (
        "TOO_FEW_RECORDS",
        "NOT_BETTER_THAN_BASE",
        "NOT_BETTER_THAN_FEW_SHOT",
        "NOT_BETTER_THAN_ROUTED",
        "SLICE_WORSE",
        "RETENTION_LOSS",
        "FORGOTTEN",
        "UNSAFE",
        "COUNTERFACTUAL_CHANGES",
    )
    assert found.message.startswith(
        "5 records were judged; at least 10 are needed; token_f1 +0.150 [-0.200, +0.500] against"
        " the base: an interval above 0 is needed; "
    )
    assert len(found.message) == 1000


@pytest.mark.parametrize(
    ("measured", "reason"), [(10, "BETTER"), (9, "TOO_FEW_RECORDS"), (0, "TOO_FEW_RECORDS")]
)
def test_only_records_of_which_the_metric_could_be_measured_count(
    measured: int, reason: str
) -> None:
    found = decided(measured=measured)
    assert found.reason == reason
    if reason == "TOO_FEW_RECORDS":
        assert found.message == (
            f"50 records were judged, token_f1 could be measured of {measured};"
            " at least 10 are needed"
        )


def test_too_few_records_are_told_with_those_that_leaked() -> None:
    found = decided(records=9, leaked="51 of 60 leaked")
    assert found.message == "9 records were judged; at least 10 are needed (51 of 60 leaked)"
    assert decided(leaked="1 of 60 leaked").promote

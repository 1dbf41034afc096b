"""Whether the evidence says that a version should take the traffic.

What speaks against it, in this order; the first is the reason, and all are told:

NO_HELD_OUT_DATA            nothing to judge by
TOO_FEW_RECORDS             the metric was measured of fewer than 10
NOT_BETTER_THAN_BASE        the interval of the difference does not lie above 0
NOT_BETTER_THAN_FEW_SHOT    the same, against the base with examples
TIED_WITH_ROUTED            every record scores as it does with the version that is routed
NOT_BETTER_THAN_ROUTED      the interval of the difference does not lie above 0
SLICE_WORSE                 a slice lost more than `max_slice_drop`
RETENTION_LOSS, FORGOTTEN   general ability is lost beyond its bounds
UNSAFE                      a category of the safety screen is said more often than before
COUNTERFACTUAL_CHANGES      more answers change under a swap than the bound that was set

Better by the interval, against each of them: a retrained adapter that does as well as the routed
one is published and not promoted, since nothing would be won by moving the traffic.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer_svc.judgement.model import (
    Candidate,
    Comparison,
    Counterfactuals,
    Decision,
    EvaluationSpec,
    Retention,
    SafetyFinding,
    SliceFigures,
)
from trainer_svc.judgement.retention import retention_failures
from trainer_svc.judgement.safety import safety_failures
from trainer_svc.judgement.slices import slice_failures

MIN_RECORDS = 10
_MAX_MESSAGE = 1000
_NAMES = {
    Candidate.BASE: "the base",
    Candidate.FEW_SHOT: "the base with a few-shot prompt",
    Candidate.ROUTED: "the routed version",
}


def decide(
    spec: EvaluationSpec,
    *,
    records: int,
    measured: int,
    metric: str,
    comparisons: Sequence[Comparison],
    slices: Sequence[SliceFigures] = (),
    retention: Retention | None = None,
    safety: Sequence[SafetyFinding] = (),
    counterfactuals: Counterfactuals | None = None,
    leaked: str = "",
) -> Decision:
    """Return whether to promote, with everything that speaks against it.

    `measured` is of how many of the judged `records` the metric could be measured. `leaked` says
    which records were not judged, where they might be missed.
    """
    if records == 0:
        return _against([("NO_HELD_OUT_DATA", "there are no held-out records to judge by")])
    failures = []
    if measured < MIN_RECORDS:
        too_few = _too_few(records, measured, metric)
        failures.append(("TOO_FEW_RECORDS", f"{too_few} ({leaked})" if leaked else too_few))
    for comparison in comparisons:
        failures += _comparison_failures(metric, comparison)
    failures += slice_failures(spec, slices)
    failures += retention_failures(spec, retention) if retention else []
    failures += safety_failures(safety)
    failures += _counterfactual_failures(spec, counterfactuals) if counterfactuals else []
    if failures:
        return _against(failures)
    told = [_told(metric, comparison) for comparison in comparisons]
    return Decision(promote=True, reason="BETTER", message="; ".join(told)[:_MAX_MESSAGE])


def _too_few(records: int, measured: int, metric: str) -> str:
    judged = f"{records} records were judged"
    if measured < records:
        judged += f", {metric} could be measured of {measured}"
    return f"{judged}; at least {MIN_RECORDS} are needed"


def _comparison_failures(metric: str, comparison: Comparison) -> list[tuple[str, str]]:
    difference = comparison.difference
    if difference.low > 0:
        return []
    told = _told(metric, comparison)
    if comparison.against is Candidate.ROUTED and difference.low == difference.high == 0:
        return [("TIED_WITH_ROUTED", f"{told}: every record scores the same")]
    reason = f"NOT_BETTER_THAN_{comparison.against.value.upper()}"
    return [(reason, f"{told}: an interval above 0 is needed")]


def _counterfactual_failures(
    spec: EvaluationSpec, counterfactuals: Counterfactuals
) -> list[tuple[str, str]]:
    most = spec.max_counterfactual_changes
    if most is None or counterfactuals.changed <= most * counterfactuals.pairs:
        return []
    return [
        (
            "COUNTERFACTUAL_CHANGES",
            f"{counterfactuals.changed} of {counterfactuals.pairs} answers change when a word that"
            f" should not matter is swapped; at most {most:.0%} may",
        )
    ]


def _told(metric: str, comparison: Comparison) -> str:
    difference = comparison.difference
    return (
        f"{metric} {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        f" against {_NAMES[comparison.against]}"
    )


def _against(failures: Sequence[tuple[str, str]]) -> Decision:
    return Decision(
        promote=False,
        reason=failures[0][0],
        message="; ".join(message for _, message in failures)[:_MAX_MESSAGE],
        reasons=tuple(dict.fromkeys(reason for reason, _ in failures)),
    )

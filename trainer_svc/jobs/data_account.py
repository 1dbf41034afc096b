"""When what became of a dataset's records ends a job before it trains. Pure."""

from __future__ import annotations

from tailorbird.errors import FailedPrecondition
from tailorbird.line_numbers import say_lines
from trainer_svc.jobs.events import DataReport
from trainer_svc.jobs.model import DataPolicy, TooLong


def check_too_long(report: DataReport, policy: DataPolicy, limit: int, dataset: str) -> None:
    """Refuse a dataset of which more is too long than `policy` allows.

    `limit` is the longest record allowed, in tokens. Raises FailedPrecondition: RECORDS_TOO_LONG
    where none may be too long, TOO_MANY_TOO_LONG above the share.
    """
    if policy.too_long is TooLong.ERROR:
        if report.too_long:
            raise _too_long(
                report, limit, dataset, "RECORDS_TOO_LONG", "data.too_long, ERROR, allows none"
            )
        return
    share = report.too_long / report.records
    if share > policy.max_too_long_fraction:
        most = policy.max_too_long_fraction
        raise _too_long(
            report,
            limit,
            dataset,
            "TOO_MANY_TOO_LONG",
            f"{share:.1%}, more than data.max_too_long_fraction, {most:.1%}",
            share=f"{share:.4g}",
            max_too_long_fraction=f"{most:g}",
        )


def nothing_kept(left: DataReport, limit: int, dataset: str) -> FailedPrecondition:
    """Return the error of a dataset all of whose records are left out, as `left` says."""
    why = []
    if left.dropped_too_long:
        why.append(
            f"{left.dropped_too_long} are longer than max_sequence_length, {limit} tokens "
            f"({say_lines(left.dropped_lines, left.dropped_too_long)})"
        )
    if cut := left.truncated:
        why.append(
            f"{cut} have no answer in their first {limit} tokens, max_sequence_length "
            f"({say_lines(left.truncated_lines, cut)})"
        )
    if left.dropped_nothing_to_train > left.truncated:
        why.append(
            f"{left.dropped_nothing_to_train - left.truncated} have nothing to train: answers of "
            "the weight 0 are not trained"
        )
    return FailedPrecondition(
        f"none of the {left.records} records of {dataset} can be trained on: {'; '.join(why)}",
        reason="NO_TRAINABLE_RECORDS",
        records=left.records,
        dropped_too_long=left.dropped_too_long,
        dropped_nothing_to_train=left.dropped_nothing_to_train,
    )


def _too_long(
    report: DataReport, limit: int, dataset: str, reason: str, why: str, **told: object
) -> FailedPrecondition:
    lines = sorted({*report.dropped_lines, *report.truncated_lines})
    count = report.too_long
    return FailedPrecondition(
        f"{count} of {report.records} records of {dataset} are longer than max_sequence_length, "
        f"{limit} tokens: {why}. Shorten them, raise max_sequence_length if the base takes more, "
        f"or let the job's data.too_long and its limit allow it ({say_lines(lines, count)})",
        reason=reason,
        count=count,
        records=report.records,
        max_sequence_length=limit,
        **told,
    )

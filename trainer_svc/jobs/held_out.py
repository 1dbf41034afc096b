"""What is said of held-out records, or of none, before a version is judged on them. Pure."""

from __future__ import annotations

from tailorbird.errors import FailedPrecondition
from trainer_svc.jobs.events import JobWarning
from trainer_svc.judgement.decision import MIN_RECORDS

ENOUGH_RECORDS = 50
"""Training records of which some are held out where a job is to be judged and names no data."""

TRIALS_COMPARED = "trials are compared"
_NO_DATA = "NO_HELD_OUT_DATA"
_NOT_BY_ITSELF = "which takes no traffic by itself"
_ANCESTORS = "the data of the version that training begins with, or of one before it,"

NO_ANSWERS = JobWarning(
    reason="NO_ANSWERS",
    message=f"plain text asks nothing: its loss alone tells of the version, {_NOT_BY_ITSELF}",
)


def none_held_out(records: int) -> JobWarning:
    """Say that none of `records`, those that can be trained on, is held out to judge by."""
    return JobWarning(
        reason=_NO_DATA,
        message=f"there are no held-out records to judge the version on, {_NOT_BY_ITSELF}: "
        f"{_why_none(records)}",
    )


def none_left(leaked: str) -> JobWarning:
    """Say that every held-out record has been asked in training; `leaked` is of `seen`."""
    return JobWarning(
        reason=_NO_DATA,
        message=f"{leaked}; no other is left to judge the version on, {_NOT_BY_ITSELF}: name "
        "validation data that asks something else",
    )


def too_few(records: int, leaked: str) -> JobWarning:
    """Say that fewer records can be judged on than a promotion needs; see `none_left`."""
    left = f" that ask something else ({leaked})" if leaked else ""
    return JobWarning(
        reason="TOO_FEW_RECORDS",
        message=f"fewer than {MIN_RECORDS} held-out records, {records}, are there to judge the "
        f"version on, {_NOT_BY_ITSELF}: give more{left}",
    )


def seen(own: int, inherited: int, leaked: int, held_out: int) -> str:
    """Say that nothing is judged on `leaked` of the held-out records; "" where it is none.

    What `own` of them ask is in the training data, and what `inherited` ask in that of a version
    which the weights come from.
    """
    if not leaked:
        return ""
    told = (
        f"VALIDATION_LEAKAGE: {leaked:,} of {held_out:,} held-out records are not judged on, for "
    )
    if not inherited:
        return f"{told}the training data asks what they ask"
    if not own:
        return f"{told}{_ANCESTORS} asks what they ask"
    return f"{told}the training data asks what {own:,} of them ask, and {_ANCESTORS} {inherited:,}"


def no_validation(why: str, records: int, *, hold_out: bool = True) -> FailedPrecondition:
    """Return the error of a job without the validation data that it needs, and for what.

    `records` can be trained on, and some were held out with `hold_out` if they were enough.
    """
    what = _why_none(records) if hold_out else "name some, or set validation_fraction"
    return FailedPrecondition(
        f"{why} on validation data, and there is none: {what}", reason="NO_VALIDATION_DATA"
    )


def _why_none(records: int) -> str:
    if records < ENOUGH_RECORDS:
        return (
            f"name validation data, or give at least {ENOUGH_RECORDS} training records, of which a "
            f"tenth is held out; {records} can be trained on"
        )
    return (
        f"the {records:,} training records are all the same, so that none can be held out; name "
        "validation data, or give records that differ"
    )

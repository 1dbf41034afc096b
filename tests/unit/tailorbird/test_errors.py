"""An error reaches another process whole."""

from __future__ import annotations

import pickle

import pytest

from tailorbird.errors import (
    AdapterRefused,
    FailedPrecondition,
    InvalidArgument,
    InvalidRecord,
    InvalidRecords,
    NotFound,
    PatternTimedOut,
    ResourceExhausted,
    TailorbirdError,
)


@pytest.mark.parametrize(
    "error",
    [
        AdapterRefused("too large", reason="RANK", retryable=True),
        FailedPrecondition("not now", reason="SCAN_FAILED", kind="email"),
        InvalidArgument("kinds", "not one", limit=3),
        InvalidRecord(3, "no answer"),
        NotFound("tenants/acme"),
        PatternTimedOut("slow", 0.5),
        ResourceExhausted("full", retry_after=7.0, limit=16),
    ],
    ids=lambda error: type(error).__name__,
)
def test_it_is_the_same_once_pickled(error: TailorbirdError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_those_within_it_too() -> None:
    error = InvalidRecords([InvalidRecord(3, "no answer")], 1, 5)
    again = pickle.loads(pickle.dumps(error))
    assert (again.violations, again.message) == (error.violations, error.message)

"""Records of feedback as tests need them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tailorbird.feedback import Answer, FeedbackRecord, Turn, feedback_day
from tailorbird.names import AdapterName, FeedbackName, VersionName

ADAPTER = AdapterName("acme", "support")
VERSION = VersionName.parse(f"{ADAPTER}/versions/20260101T000000-job-1")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def a_name(number: int = 1, time: datetime = NOON, adapter: AdapterName = ADAPTER) -> FeedbackName:
    return FeedbackName(adapter.tenant, adapter.adapter, feedback_day(time), f"{number:032x}")


def a_record(
    number: int = 1, time: datetime = NOON, adapter: AdapterName = ADAPTER, **fields: Any
) -> FeedbackRecord:
    """A chat of one question, answered and not rated."""
    values = {
        "name": str(a_name(number, time, adapter)),
        "version": str(adapter.version(VERSION.version)),
        "route_generation": 3,
        "create_time": time,
        "subject": "billing",
        "messages": (Turn(role="user", content=f"Where is order {number}?"),),
        "answer": Answer(content="On its way."),
    }
    return FeedbackRecord.model_validate(values | fields)

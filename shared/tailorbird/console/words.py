"""How figures, times and names read on a page; "" or a dash where there is nothing to say."""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters
from tailorbird.serving.v1 import inference_service_pb2 as inference
from tailorbird.tuning.v1 import dataset_pb2, job_pb2

NOTHING = "–"
_NAME = re.compile(r"tenants/[A-Za-z0-9/-]+")
_KEPT = "\n\t"
# Marks that turn the direction of what follows them round, and would of the page's own words.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """Return `text` with what a browser would not show, or act on, written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        ascii(one)[1:-1]
        if one not in _KEPT and (unicodedata.category(one) in ("Cc", "Cs") or one in _TURNING)
        else one
        for one in text
    )


def number(value: float | None, digits: int = 4) -> str:
    """Say a figure with so many significant digits."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, _, exponent = f"{value:.{max(0, digits - 2)}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def share(value: float) -> str:
    """Say a share as a percentage."""
    return f"{100 * value:.0f}%"


def size(count: float) -> str:
    """Say a number of bytes."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def seconds(value: float) -> str:
    """Say a span of time: "45 s", "3 min", "2.5 h"."""
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def when(timestamp: Timestamp) -> str:
    """Say a time in UTC, to the second."""
    if not timestamp.seconds:
        return NOTHING
    return f"{timestamp.ToDatetime(tzinfo=UTC):%Y-%m-%d %H:%M:%S}"


def iso(timestamp: Timestamp) -> str:
    """Return a time as the `datetime` of a `time` element."""
    return f"{timestamp.ToDatetime(tzinfo=UTC):%Y-%m-%dT%H:%M:%SZ}" if timestamp.seconds else ""


def last_part(name: str) -> str:
    """Return the id at a resource name's end."""
    return name.rpartition("/")[2]


def place(name: str) -> str:
    """Return the address of what a resource name stands for; "#" for what is no such name."""
    return f"/{name}" if _NAME.fullmatch(name) else "#"


def state(value: job_pb2.JobState.ValueType) -> str:
    """Say a job's state: "running"."""
    return _named(job_pb2.JobState, value, "JOB_STATE_")


def data_format(value: dataset_pb2.DatasetFormat.ValueType) -> str:
    """Say a dataset's format: "prompt completion"."""
    return _named(dataset_pb2.DatasetFormat, value, "DATASET_FORMAT_")


def policy(value: job_pb2.PromotionPolicy.ValueType) -> str:
    """Say a promotion policy: "auto if better"."""
    said = _named(job_pb2.PromotionPolicy, value, "PROMOTION_POLICY_")
    return "auto if better" if said == "unspecified" else said


def tier(value: adapters.ResidentVersion.Tier.ValueType) -> str:
    """Say where a version is: "engine", "disk", or "refused"."""
    said = _named(adapters.ResidentVersion.Tier, value, "TIER_")
    return "refused" if said == "unspecified" else said


def finish(value: inference.FinishReason.ValueType) -> str:
    """Say why an answer ended: "length"."""
    return _named(inference.FinishReason, value, "FINISH_REASON_")


def personal_data(value: dataset_pb2.PersonalDataMode.ValueType) -> str:
    """Say what was done about personal data: "redact"."""
    return _named(dataset_pb2.PersonalDataMode, value, "PERSONAL_DATA_MODE_")


def _named(enum: object, value: int, prefix: str) -> str:
    # A later release may have values that this one has no name for.
    try:
        name = str(enum.Name(value))  # type: ignore[attr-defined]
    except ValueError:
        return f"unknown ({value})"
    return name.removeprefix(prefix).replace("_", " ").lower()

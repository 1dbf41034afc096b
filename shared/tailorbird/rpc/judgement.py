"""A judgement as a message: what the trainer tells of it, and what serving reads of report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from tailorbird.adapters.v1 import judgement_pb2
from tailorbird.errors import DataCorrupt


def judgement_to_proto(judgement: Mapping[str, Any]) -> judgement_pb2.Judgement:
    """Return the message for a judgement in JSON's terms; what a later release added is left out.

    Raises DataCorrupt (REPORT_INVALID) if it is none.
    """
    try:
        return ParseDict(dict(judgement), judgement_pb2.Judgement(), ignore_unknown_fields=True)
    except (ParseError, RecursionError) as error:
        raise DataCorrupt("the judgement of a report is none", reason="REPORT_INVALID") from error

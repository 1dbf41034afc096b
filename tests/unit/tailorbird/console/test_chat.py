"""What the page of a chat says of an answer."""

from __future__ import annotations

import pytest

from tailorbird.console.chat import finish_name
from tailorbird.serving.v1 import inference_service_pb2 as serving


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (serving.FINISH_REASON_STOP, ""),
        (serving.FINISH_REASON_LENGTH, "length"),
        (serving.FINISH_REASON_TOOL_CALLS, "tool calls"),
        (99, "unknown (99)"),
    ],
)
def test_why_an_answer_ended_is_said_of_a_later_release_s_too(
    reason: serving.FinishReason.ValueType, said: str
) -> None:
    assert finish_name(reason) == said

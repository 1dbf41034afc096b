"""RecordFeedback's request: what is taken, and what is wrong with what is not."""

from __future__ import annotations

from typing import Any

import pytest

from serving_svc.api.convert_feedback import feedback, record_response
from serving_svc.feedback.service import Feedback
from tailorbird.errors import InvalidArgument
from tailorbird.feedback import Answer, Call, Function, Tool, ToolFunction, Turn
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.unit.tailorbird.feedback_values import NOON, VERSION, a_record

CALL = pb.ToolCall(id="c", name="find", arguments_json='{"order": 1}')
STORED_CALL = Call(id="c", function=Function(name="find", arguments='{"order": 1}'))


def a_request(**changes: Any) -> pb.RecordFeedbackRequest:
    values: dict[str, Any] = {
        "version": str(VERSION),
        "chat": pb.Chat(messages=[pb.Message(role=pb.ROLE_USER, content="Where?")]),
        "answer": pb.FeedbackAnswer(text="Here."),
    }
    if "prompt" in changes:
        del values["chat"]
    return pb.RecordFeedbackRequest(**(values | changes))


def read(request: pb.RecordFeedbackRequest, max_bytes: int = 2**18) -> Feedback:
    return feedback(request, VERSION, "billing", max_bytes)


def test_a_whole_chat_is_read() -> None:
    messages = [
        pb.Message(role=pb.ROLE_SYSTEM, content="Be kind."),
        pb.Message(role=pb.ROLE_USER, content="Where?"),
        pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[CALL]),
        pb.Message(role=pb.ROLE_TOOL, content="[]", tool_call_id="c"),
    ]
    tools = [
        pb.Tool(name="find", description="Finds.", parameters_json_schema='{"type": "object"}'),
        pb.Tool(name="end"),
    ]
    found = read(
        a_request(
            chat=pb.Chat(messages=messages, tools=tools),
            route_generation=7,
            answer=pb.FeedbackAnswer(tool_calls=[CALL]),
            correction=pb.FeedbackAnswer(text="There."),
            rating=pb.RATING_BAD,
            labels={"channel": "chat"},
            request_id="r",
        )
    )
    assert found == Feedback(
        version=VERSION,
        subject="billing",
        route_generation=7,
        messages=(
            Turn(role="system", content="Be kind."),
            Turn(role="user", content="Where?"),
            Turn(role="assistant", tool_calls=(STORED_CALL,)),
            Turn(role="tool", content="[]", tool_call_id="c"),
        ),
        tools=(
            Tool(
                function=ToolFunction(
                    name="find", description="Finds.", parameters={"type": "object"}
                )
            ),
            Tool(function=ToolFunction(name="end")),
        ),
        answer=Answer(tool_calls=(STORED_CALL,)),
        correction=Answer(content="There."),
        rating="bad",
        labels={"channel": "chat"},
        request_id="r",
    )


def test_a_prompt_is_read() -> None:
    found = read(a_request(prompt="Dear", rating=pb.RATING_GOOD))
    assert (found.prompt, found.messages, found.rating) == ("Dear", (), "good")


def test_an_answer_may_be_empty_beside_its_correction() -> None:
    right = pb.FeedbackAnswer(text="x")
    assert read(a_request(answer=pb.FeedbackAnswer(), correction=right)).answer == Answer()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"chat": None}, "chat"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        (
            {"chat": pb.Chat(messages=[pb.Message(role=pb.ROLE_USER, content=" ")] * 2)},
            "chat.messages",
        ),
        ({"chat": pb.Chat()}, "chat.messages"),
        ({"answer": None}, "answer.text"),
        ({"answer": pb.FeedbackAnswer(text=" \n")}, "answer.text"),
        ({"correction": pb.FeedbackAnswer()}, "correction.text"),
        ({"prompt": "x", "answer": pb.FeedbackAnswer(tool_calls=[CALL])}, "answer.tool_calls"),
        (
            {"prompt": "x", "correction": pb.FeedbackAnswer(tool_calls=[CALL])},
            "correction.tool_calls",
        ),
        (
            {
                "correction": pb.FeedbackAnswer(
                    tool_calls=[pb.ToolCall(name="f", arguments_json="[")]
                )
            },
            "correction.tool_calls[0].arguments_json",
        ),
        ({"route_generation": -1}, "route_generation"),
        ({"rating": 9}, "rating"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"labels": {f"k{n}": "" for n in range(13)}}, "labels"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"9": "x"}}, "labels"),
        ({"labels": {"Channel": "x"}}, "labels"),
        ({"labels": {"a" * 41: "x"}}, "labels"),
        ({"labels": {"feedback": "x"}}, "labels"),
        ({"labels": {"version": "x"}}, "labels"),
        ({"labels": {"a": "x" * 257}}, "labels.a"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(a_request(**changes))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "schema", [r'{"title": "\ud800"}', r'{"\udc00": 1}', '{"maximum": 1e999}', '{"a": [-1e999]}']
)
def test_a_schema_that_would_not_be_read_as_it_was_written_is_refused(schema: str) -> None:
    tools = [pb.Tool(name="end"), pb.Tool(name="find", parameters_json_schema=schema)]
    asked = pb.Chat(messages=[pb.Message(role=pb.ROLE_USER, content="Where?")], tools=tools)
    with pytest.raises(InvalidArgument) as caught:
        read(a_request(chat=asked))
    assert caught.value.field == "chat.tools[1].parameters_json_schema"


def test_what_is_just_allowed_is_taken() -> None:
    labels = {("a" * 39) + chr(ord("a") + n): "x" * 256 for n in range(12)}
    found = read(a_request(labels=labels, request_id="x" * 128))
    assert (found.labels, len(found.request_id)) == (labels, 128)


def test_a_request_that_is_too_long_is_not_looked_at() -> None:
    request = a_request(rating=9)
    with pytest.raises(InvalidArgument) as caught:
        read(request, request.ByteSize() - 1)
    assert caught.value.reason == "FEEDBACK_TOO_LARGE"
    with pytest.raises(InvalidArgument, match="rating"):
        read(request, request.ByteSize())


def test_the_response_says_what_was_replaced_and_not_what_it_was() -> None:
    found = record_response(a_record(redactions={"email": 2}))
    assert found.name == a_record().name
    assert found.create_time.seconds == NOON.timestamp()
    assert dict(found.redactions) == {"email": 2}

"""Feedback, from protobuf and what was kept of it to protobuf."""

from __future__ import annotations

import json
import re
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from serving_svc.api.convert_chat import chat, tool_calls
from serving_svc.feedback.service import Feedback, too_large
from serving_svc.generation.model import Chat, Message, Tool, ToolCall
from tailorbird.errors import InvalidArgument
from tailorbird.feedback import (
    BAD,
    GOOD,
    Answer,
    Call,
    FeedbackRecord,
    Function,
    ToolFunction,
    Turn,
)
from tailorbird.feedback import Tool as StoredTool
from tailorbird.names import VersionName
from tailorbird.serving.v1 import inference_service_pb2 as pb

_MAX_REQUEST_ID = 128
_MAX_LABELS = 12
_MAX_LABEL_VALUE = 256
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
# What an imported record says of itself beside its labels.
_TAKEN = ("feedback", "version")
_RATINGS = {pb.RATING_UNSPECIFIED: "", pb.RATING_GOOD: GOOD, pb.RATING_BAD: BAD}


def feedback(
    message: pb.RecordFeedbackRequest, version: VersionName, subject: str, max_bytes: int
) -> Feedback:
    """Read and check a request on an answer of `version`, whose name was read before."""
    if message.ByteSize() > max_bytes:
        raise too_large(message.ByteSize(), max_bytes)
    if message.route_generation < 0:
        raise InvalidArgument("route_generation", f"{message.route_generation} is negative")
    if len(message.request_id) > _MAX_REQUEST_ID:
        raise InvalidArgument("request_id", f"longer than {_MAX_REQUEST_ID} characters")
    if message.rating not in _RATINGS:
        raise InvalidArgument("rating", f"{message.rating} is not RATING_GOOD or RATING_BAD")
    asked = _asked(message)
    corrected = message.HasField("correction")
    return Feedback(
        version=version,
        subject=subject,
        route_generation=message.route_generation,
        messages=tuple(_turn(one) for one in asked.messages),
        tools=tuple(_tool(one, index) for index, one in enumerate(asked.tools)),
        prompt=message.prompt,
        answer=_answer(message, "answer", empty=corrected),
        correction=_answer(message, "correction") if corrected else None,
        rating=_RATINGS[message.rating],
        labels=_labels(message),
        request_id=message.request_id,
    )


def record_response(record: FeedbackRecord) -> pb.RecordFeedbackResponse:
    """Return the message for what was kept."""
    time = Timestamp()
    time.FromDatetime(record.create_time)
    return pb.RecordFeedbackResponse(
        name=record.name, create_time=time, redactions=record.redactions
    )


def _asked(message: pb.RecordFeedbackRequest) -> Chat:
    match message.WhichOneof("input"):
        case "chat":
            return _some(chat(message.chat))
        case "prompt" if message.prompt.strip():
            return Chat(())
        case "prompt":
            raise InvalidArgument("prompt", "it is empty")
        case _:
            raise InvalidArgument("chat", "one of chat and prompt is needed; neither is set")


def _some(asked: Chat) -> Chat:
    if any(each.content.strip() or each.tool_calls for each in asked.messages):
        return asked
    raise InvalidArgument("chat.messages", "they are empty: nothing is asked")


def _answer(message: pb.RecordFeedbackRequest, field: str, *, empty: bool = False) -> Answer:
    given: pb.FeedbackAnswer = getattr(message, field)
    if given.tool_calls and message.WhichOneof("input") != "chat":
        raise InvalidArgument(f"{field}.tool_calls", "only an answer in a chat calls tools")
    if not given.tool_calls and not given.text.strip() and not empty:
        raise InvalidArgument(f"{field}.text", "it is empty, and no tools are called")
    calls = tool_calls(given.tool_calls, f"{field}.tool_calls")
    return Answer(content=given.text, tool_calls=tuple(map(_call, calls)))


def _labels(message: pb.RecordFeedbackRequest) -> dict[str, str]:
    if len(message.labels) > _MAX_LABELS:
        raise InvalidArgument(
            "labels", f"{len(message.labels)} are given; at most {_MAX_LABELS} are allowed"
        )
    for key, value in message.labels.items():
        if not _LABEL.fullmatch(key) or key in _TAKEN:
            raise InvalidArgument(
                "labels",
                f"{key[:80]!r} is not a letter and at most 39 of a-z, 0-9 and '_', or is one of"
                f" {', '.join(_TAKEN)}",
            )
        if len(value) > _MAX_LABEL_VALUE:
            raise InvalidArgument(
                f"labels.{key}", f"{len(value)} characters; at most {_MAX_LABEL_VALUE} are allowed"
            )
    return dict(message.labels)


def _turn(message: Message) -> Turn:
    return Turn(
        role=message.role,
        content=message.content,
        tool_calls=tuple(map(_call, message.tool_calls)),
        tool_call_id=message.tool_call_id,
    )


def _call(call: ToolCall) -> Call:
    return Call(id=call.id, function=Function(name=call.name, arguments=call.arguments_json))


def _tool(tool: Tool, index: int) -> StoredTool:
    schema = tool.parameters_json_schema
    field = f"chat.tools[{index}].parameters_json_schema"
    parameters = _as_stored(schema, field) if schema else None
    function = ToolFunction(name=tool.name, description=tool.description, parameters=parameters)
    return StoredTool(function=function)


def _as_stored(schema: str, field: str) -> dict[str, Any]:
    """Return a schema that is the same once it was written and read."""
    parameters: dict[str, Any] = json.loads(schema)
    try:
        json.dumps(parameters, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidArgument(
            field, "half a surrogate pair, or a number above 1.8e308, is in it"
        ) from error
    return parameters

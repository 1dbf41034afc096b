"""Feedback as messages, and what is asked of it from messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from tailorbird.errors import InvalidArgument, InvalidRecords
from tailorbird.feedback import BAD, GOOD, Answer, Call, FeedbackPage, FeedbackRecord, Period, Tool
from tailorbird.names import AdapterName
from tailorbird.records.formats import DatasetFormat
from tailorbird.serving.v1 import inference_service_pb2 as serving
from tailorbird.tuning.v1 import feedback_pb2 as pb
from trainer_svc.api.convert import timestamp
from trainer_svc.api.convert_datasets import dataset_to_proto, format_from_proto
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.feedback.lines import Rule
from trainer_svc.feedback.service import Import, Imported, Wanted

_HEADER = "header."
_MAX_TOLD = 100
_RATINGS = {GOOD: serving.RATING_GOOD, BAD: serving.RATING_BAD}
_NAMED_RATINGS = {value: name for name, value in _RATINGS.items()} | {
    serving.RATING_UNSPECIFIED: ""
}
_ROLES = {
    "system": serving.ROLE_SYSTEM,
    "user": serving.ROLE_USER,
    "assistant": serving.ROLE_ASSISTANT,
    "tool": serving.ROLE_TOOL,
}
_RULES = {
    pb.FEEDBACK_RULE_UNSPECIFIED: Rule.CORRECTIONS_AND_GOOD,
    pb.FEEDBACK_RULE_CORRECTIONS_AND_GOOD: Rule.CORRECTIONS_AND_GOOD,
    pb.FEEDBACK_RULE_CORRECTIONS: Rule.CORRECTIONS,
    pb.FEEDBACK_RULE_GOOD: Rule.GOOD,
}
_FORMATS = {
    None: DatasetFormat.CHAT,
    DatasetFormat.CHAT: DatasetFormat.CHAT,
    DatasetFormat.PROMPT_COMPLETION: DatasetFormat.PROMPT_COMPLETION,
}


@contextmanager
def of_import() -> Iterator[None]:
    """Name the fields of an upload as those of the import: what would be uploaded, its adapter."""
    try:
        yield
    except InvalidRecords:
        # These name lines.
        raise
    except InvalidArgument as error:
        field = error.field.removeprefix(_HEADER)
        if field == "chunk":
            field = "adapter"
        metadata = {key: value for key, value in error.metadata.items() if key != "field"}
        raise InvalidArgument(field, error.description, reason=error.reason, **metadata) from error


def period(request: pb.ListFeedbackRequest | pb.ImportFeedbackRequest) -> Period:
    """Read since and until; InvalidArgument names the wrong one."""
    since = _time("since", request.since) if request.HasField("since") else None
    until = _time("until", request.until) if request.HasField("until") else None
    if since is not None and until is not None and until <= since:
        raise InvalidArgument("until", "it is not after since")
    return Period(since, until)


def wanted(request: pb.ListFeedbackRequest) -> Wanted:
    """Read what is to be listed."""
    if request.rating not in _NAMED_RATINGS:
        raise InvalidArgument("rating", f"{request.rating} is not RATING_GOOD or RATING_BAD")
    has_correction = request.has_correction if request.HasField("has_correction") else None
    return Wanted(_NAMED_RATINGS[request.rating], has_correction)


def import_from_proto(request: pb.ImportFeedbackRequest, adapter: AdapterName) -> Import:
    """Read what a dataset is to be made of."""
    if request.rule not in _RULES:
        raise InvalidArgument("rule", f"{request.rule} is not a rule")
    named = format_from_proto(request.format)
    if named not in _FORMATS:
        raise InvalidArgument("format", f"{named}: feedback makes chat or prompt_completion")
    return Import(adapter, period(request), _RULES[request.rule], _FORMATS[named])


def page_to_proto(page: FeedbackPage, token: str) -> pb.ListFeedbackResponse:
    """Return the message for a page, whose successor has the token."""
    return pb.ListFeedbackResponse(
        feedback=[_feedback(record) for record in page.records],
        next_page_token=token,
        unreadable=page.unreadable[:_MAX_TOLD],
        unreadable_count=len(page.unreadable),
    )


def import_to_proto(dataset: Dataset, imported: Imported) -> pb.ImportFeedbackResponse:
    """Return the message for what was imported."""
    return pb.ImportFeedbackResponse(
        dataset=dataset_to_proto(dataset),
        read_count=imported.read,
        imported_count=imported.imported,
        other_count=imported.other,
        vanished_count=imported.vanished,
        unusable=[
            pb.UnusableFeedback(name=str(name), problem=problem)
            for name, problem in imported.unusable
        ],
        unusable_count=imported.unusable_count,
    )


def _feedback(record: FeedbackRecord) -> pb.Feedback:
    message = pb.Feedback(
        name=record.name,
        version=record.version,
        route_generation=record.route_generation,
        create_time=timestamp(record.create_time),
        subject=record.subject,
        answer=_answer(record.answer),
        correction=None if record.correction is None else _answer(record.correction),
        rating=_RATINGS.get(record.rating, serving.RATING_UNSPECIFIED),
        labels=record.labels,
        redactions=record.redactions,
    )
    if record.messages:
        message.chat.CopyFrom(_chat(record))
    else:
        message.prompt = record.prompt
    return message


def _chat(record: FeedbackRecord) -> serving.Chat:
    messages = [
        serving.Message(
            # A role of a later release is unspecified here.
            role=_ROLES.get(turn.role, serving.ROLE_UNSPECIFIED),
            content=turn.content,
            tool_calls=_calls(turn.tool_calls),
            tool_call_id=turn.tool_call_id,
        )
        for turn in record.messages
    ]
    return serving.Chat(messages=messages, tools=[_tool(one) for one in record.tools])


def _answer(answer: Answer) -> serving.FeedbackAnswer:
    return serving.FeedbackAnswer(text=answer.content, tool_calls=_calls(answer.tool_calls))


def _calls(calls: Iterable[Call]) -> list[serving.ToolCall]:
    return [
        serving.ToolCall(
            id=call.id, name=call.function.name, arguments_json=call.function.arguments
        )
        for call in calls
    ]


def _tool(tool: Tool) -> serving.Tool:
    function = tool.function
    given = function.parameters
    # Not longer than it is stored: pages are bounded by that.
    schema = "" if given is None else json.dumps(given, ensure_ascii=False)
    return serving.Tool(
        name=function.name, description=function.description, parameters_json_schema=schema
    )


def _time(field: str, time: Timestamp) -> datetime:
    try:
        return time.ToDatetime(tzinfo=UTC)
    except (OverflowError, ValueError) as error:
        raise InvalidArgument(field, "it is not a time of the years 1 to 9999") from error

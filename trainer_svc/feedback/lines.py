"""A record of feedback as a line of a dataset. Pure."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from tailorbird.errors import InvalidRecord
from tailorbird.feedback import GOOD, Answer, Call, FeedbackRecord, Tool, Turn
from tailorbird.names import VersionName
from tailorbird.records.formats import DatasetFormat, parse_upload


class Rule(StrEnum):
    """What of the feedback is learned; see `tailorbird.tuning.v1.FeedbackRule`."""

    CORRECTIONS_AND_GOOD = "corrections_and_good"
    CORRECTIONS = "corrections"
    GOOD = "good"


class Unusable(Exception):
    """A record cannot be trained on; the text says why."""


def dataset_line(
    record: FeedbackRecord, rule: Rule, format_: DatasetFormat, max_bytes: int
) -> bytes | None:
    """Return the line for a record, or None if the rule or the format does not take it.

    Raises Unusable for one that no dataset could hold.
    """
    answer = _learned(record, rule)
    if answer is None or bool(record.messages) is not (format_ is DatasetFormat.CHAT):
        return None
    line = json.dumps(_content(record, answer), ensure_ascii=False).encode()
    if len(line) > max_bytes:
        raise Unusable(f"its line has {len(line)} bytes; at most {max_bytes} are allowed")
    try:
        parse_upload(1, line, format_)
    except InvalidRecord as error:
        raise Unusable(error.text) from error
    return line + b"\n"


def _learned(record: FeedbackRecord, rule: Rule) -> Answer | None:
    if record.correction is not None:
        return None if rule is Rule.GOOD else record.correction
    return record.answer if record.rating == GOOD and rule is not Rule.CORRECTIONS else None


def _content(record: FeedbackRecord, answer: Answer) -> dict[str, Any]:
    version = VersionName.parse(record.version).version
    metadata = {**record.labels, "feedback": record.name, "version": version}
    if not record.messages:
        return {"prompt": record.prompt, "completion": answer.content, "metadata": metadata}
    messages = [*map(_asked, record.messages), _said("assistant", answer)]
    tools = {"tools": [_tool(tool) for tool in record.tools]} if record.tools else {}
    return {"messages": messages, **tools, "metadata": metadata}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.function.name, "description": tool.function.description}
    given = tool.function.parameters
    parameters = {} if given is None else {"parameters": given}
    return {"type": "function", "function": {**function, **parameters}}


def _asked(turn: Turn) -> dict[str, Any]:
    message = _said(turn.role, turn)
    if turn.role == "assistant":
        # Nobody said that the answers before this one were good.
        message["weight"] = 0
    if turn.tool_call_id:
        message["tool_call_id"] = turn.tool_call_id
    return message


def _said(role: str, said: Turn | Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": said.content}
    if said.tool_calls:
        message["tool_calls"] = [_call(call) for call in said.tool_calls]
    return message


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}

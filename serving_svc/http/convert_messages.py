"""A chat's messages and tools, from OpenAI's JSON to the messages that gRPC's callers send."""

from __future__ import annotations

import json
from typing import Any

from tailorbird.errors import InvalidArgument
from tailorbird.http.fields import Fields, shown
from tailorbird.serving.v1 import inference_service_pb2 as pb

_ROLES = {
    "system": pb.ROLE_SYSTEM,
    "developer": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}


def messages(fields: Fields) -> list[pb.Message]:
    """Read the messages, which the converter of gRPC checks further."""
    found = fields.items("messages")
    if found is None:
        raise InvalidArgument("messages", "it is needed, and not given")
    return [_message(Fields.of(one, f"messages[{i}]")) for i, one in enumerate(found)]


def tools(fields: Fields, *, held: bool) -> list[pb.Tool]:
    """Read the tools that the chat offers; `held`: their arguments are held to their schemas."""
    found = fields.items("tools") or []
    return [_tool(Fields.of(one, f"tools[{i}]"), held) for i, one in enumerate(found)]


def _message(fields: Fields) -> pb.Message:
    role = fields.needed_text("role")
    if role not in _ROLES:
        raise InvalidArgument(
            fields.path("role"), f"{shown(role)} is not one of {', '.join(_ROLES)}"
        )
    calls = fields.items("tool_calls") or []
    where = fields.path("tool_calls")
    content = _content(fields, needed=not calls)
    call_id = fields.text("tool_call_id") or ""
    # Chat templates tell no names.
    fields.ignore("name")
    fields.end()
    return pb.Message(
        role=_ROLES[role],
        content=content,
        tool_calls=[_call(Fields.of(one, f"{where}[{i}]")) for i, one in enumerate(calls)],
        tool_call_id=call_id,
    )


def _content(fields: Fields, *, needed: bool) -> str:
    field = fields.path("content")
    found = fields.any("content")
    if found is None:
        if needed:
            raise InvalidArgument(field, "it is needed, and not given")
        return ""
    if isinstance(found, list):
        return "\n".join(_part(Fields.of(one, f"{field}[{i}]")) for i, one in enumerate(found))
    if not isinstance(found, str):
        raise InvalidArgument(field, f"{shown(found)} is neither a string nor an array of parts")
    return found


def _part(fields: Fields) -> str:
    fields.only("type", "text", why="the model reads text only")
    text = fields.needed_text("text")
    fields.end()
    return text


def _call(fields: Fields) -> pb.ToolCall:
    call_id = fields.text("id") or ""
    function = _function(fields)
    call = pb.ToolCall(
        id=call_id,
        name=function.needed_text("name"),
        arguments_json=function.needed_text("arguments"),
    )
    function.end()
    return call


def _tool(fields: Fields, held: bool) -> pb.Tool:
    function = _function(fields)
    tool = pb.Tool(
        name=function.needed_text("name"),
        description=function.text("description") or "",
        parameters_json_schema=_schema(function),
    )
    function.only(
        "strict",
        *((False, True) if held else (False,)),
        why="arguments are held to their schema only where tool_choice names the tool or is "
        "'required'",
    )
    function.end()
    return tool


def _schema(function: Fields) -> str:
    found = function.any("parameters")
    # Its own checks, and their limits, are those of gRPC.
    return "" if found is None else as_json(found)


def _function(fields: Fields) -> Fields:
    fields.only("type", "function", why="only functions are tools here")
    found = fields.inner("function")
    if found is None:
        raise InvalidArgument(fields.path("function"), "it is needed, and not given")
    fields.end()
    return found


def as_json(value: Any) -> str:
    """Return `value` as JSON, as short as it can be; InvalidArgument if it nests too deep."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise too_deep() from None


def too_deep() -> InvalidArgument:
    """Return what is said of JSON that could be read, but nests too deep to be passed on."""
    return InvalidArgument("body", "it nests too deep", reason="MALFORMED_REQUEST")

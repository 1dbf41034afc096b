"""A chat, from protobuf: its messages, the tools it offers and the calls of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import NoReturn

from serving_svc.generation.model import Chat, Message, Role, Tool, ToolCall
from tailorbird.errors import InvalidArgument
from tailorbird.serving.v1 import inference_service_pb2 as pb

_MAX_MESSAGES = 4096
_MAX_TOOLS = 128
_MAX_TOOL_CALLS = 128
_MAX_TOOLS_CHARS = 256 * 1024
_MAX_CALLS_CHARS = 256 * 1024
_MAX_CALL_ID = 256
_MAX_DEPTH = 64
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

_ROLES: dict[pb.Role.ValueType, Role] = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}


def chat(message: pb.Chat) -> Chat:
    """Read and check a chat. What is too much is counted before it is looked at."""
    count = len(message.messages)
    if not count:
        raise InvalidArgument("chat.messages", "it is empty; at least 1 message is needed")
    if count > _MAX_MESSAGES:
        raise InvalidArgument(
            "chat.messages", f"{count} messages are given; at most {_MAX_MESSAGES} are allowed"
        )
    size = sum(len(call.arguments_json) for one in message.messages for call in one.tool_calls)
    if size > _MAX_CALLS_CHARS:
        raise InvalidArgument(
            "chat.messages",
            f"the arguments of their tool calls have {size} characters; at most "
            f"{_MAX_CALLS_CHARS} are allowed",
        )
    messages = tuple(_message(one, index) for index, one in enumerate(message.messages))
    if messages[-1].role == "assistant":
        raise InvalidArgument(
            f"chat.messages[{count - 1}].role",
            "the last message is ROLE_ASSISTANT's; the answer must have something to answer",
        )
    return Chat(messages, _tools(message.tools))


def _message(message: pb.Message, index: int) -> Message:
    role = _ROLES.get(message.role)
    field = f"chat.messages[{index}]"
    if role is None:
        raise InvalidArgument(
            f"{field}.role",
            f"{message.role} is not ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL",
        )
    if role == "tool":
        if not 1 <= len(message.tool_call_id) <= _MAX_CALL_ID:
            raise InvalidArgument(
                f"{field}.tool_call_id",
                f"it has {len(message.tool_call_id)} characters; with ROLE_TOOL it names the call "
                f"that this is the result of, in 1 to {_MAX_CALL_ID}",
            )
    elif message.tool_call_id:
        raise InvalidArgument(f"{field}.tool_call_id", "only a message of ROLE_TOOL has one")
    calls: tuple[ToolCall, ...] = ()
    if message.tool_calls:
        if role != "assistant":
            raise InvalidArgument(f"{field}.tool_calls", "only ROLE_ASSISTANT calls tools")
        calls = tool_calls(message.tool_calls, f"{field}.tool_calls")
    return Message(role, message.content, calls, message.tool_call_id)


def tool_calls(calls: Sequence[pb.ToolCall], field: str) -> tuple[ToolCall, ...]:
    """Read and check the calls in `field`; the caller bounds the size of their arguments."""
    if len(calls) > _MAX_TOOL_CALLS:
        raise InvalidArgument(
            field, f"{len(calls)} calls are given; at most {_MAX_TOOL_CALLS} are allowed"
        )
    found = []
    for index, call in enumerate(calls):
        where = f"{field}[{index}]"
        if len(call.id) > _MAX_CALL_ID:
            raise InvalidArgument(
                f"{where}.id",
                f"it has {len(call.id)} characters; at most {_MAX_CALL_ID} are allowed",
            )
        _check_tool_name(call.name, f"{where}.name")
        _check_object(call.arguments_json, f"{where}.arguments_json")
        found.append(ToolCall(call.id, call.name, call.arguments_json))
    return tuple(found)


def _tools(tools: Sequence[pb.Tool]) -> tuple[Tool, ...]:
    if len(tools) > _MAX_TOOLS:
        raise InvalidArgument(
            "chat.tools", f"{len(tools)} tools are given; at most {_MAX_TOOLS} are allowed"
        )
    size = sum(len(tool.description) + len(tool.parameters_json_schema) for tool in tools)
    if size > _MAX_TOOLS_CHARS:
        raise InvalidArgument(
            "chat.tools",
            f"descriptions and schemas have {size} characters; at most {_MAX_TOOLS_CHARS} are "
            "allowed",
        )
    names: set[str] = set()
    for index, tool in enumerate(tools):
        field = f"chat.tools[{index}]"
        _check_tool_name(tool.name, f"{field}.name")
        if tool.name in names:
            raise InvalidArgument(f"{field}.name", f"{tool.name!r} is the name of another tool")
        names.add(tool.name)
        if tool.parameters_json_schema:
            _check_object(tool.parameters_json_schema, f"{field}.parameters_json_schema")
    return tuple(Tool(tool.name, tool.description, tool.parameters_json_schema) for tool in tools)


def _check_tool_name(name: str, field: str) -> None:
    if not _TOOL_NAME.fullmatch(name):
        shown = repr(name if len(name) <= 80 else name[:77] + "...")
        raise InvalidArgument(field, f"{shown} is not 1 to 64 letters, digits, '_' and '-'")


def _check_object(text: str, field: str) -> None:
    """Check that `text` is a JSON object that nests at most `_MAX_DEPTH` deep."""
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep(field) from None
    except ValueError as error:
        raise InvalidArgument(field, f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArgument(field, f"it is not a JSON object but {_kind(found)}")
    level: list[object] = [found]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer) if _nests(inner)]
        if not level:
            return
    raise _too_deep(field)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _nests(value: object) -> bool:
    return isinstance(value, dict | list)


def _too_deep(field: str) -> InvalidArgument:
    return InvalidArgument(field, f"it nests more than {_MAX_DEPTH} deep")


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")

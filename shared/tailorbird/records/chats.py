"""OpenAI's chats as fine-tuning files hold them: what they may be, what a template gets. Pure.

{"messages": [
    {"role": "system" | "developer", "content": "..."},
    {"role": "user", "content": "..."},
    {"role": "assistant", "content": "..." | null, "weight": 0 | 1, "tool_calls": [
        {"id": "...", "type": "function", "function": {"name": "...", "arguments": "{...}"}}]},
    {"role": "tool", "tool_call_id": "...", "content": "..."},
    {"role": "assistant", "content": "..."}],
 "tools": [{"type": "function", "function": {
    "name": "...", "description": "...", "parameters": {...}}}]}

A key that is null is one that is not there, as files written from tables have it. Other keys of a
message, a call or a tool are refused: some of them would change what is learned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tailorbird.records.checks import (
    Unfit,
    check_answer,
    check_keys,
    check_object,
    check_text,
    kind,
    parse_object,
)

# What serving takes of a chat: nothing else could be asked of what is trained.
_MAX_TOOLS = 128
_MAX_TOOL_CALLS = 128
_MAX_TOOLS_CHARS = 256 * 1024
_MAX_CALLS_CHARS = 256 * 1024
_MAX_CALL_ID = 256
_MAX_NAME = 64
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

_KEYS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "weight", "tool_calls"},
    "tool": {"role", "content", "name", "tool_call_id"},
}


def check_chat(record: Mapping[str, Any]) -> None:
    """Check a chat; Unfit says what is wrong with it first."""
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        raise Unfit("messages", "a list with at least one message is expected")
    calls = _Calls()
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]", calls)
    if messages[0]["role"] == "assistant":
        raise Unfit("messages[0].role", "the first message must be the system's or the user's")
    if messages[-1]["role"] != "assistant":
        raise Unfit(
            f"messages[{len(messages) - 1}].role", "the last message must be the assistant's"
        )
    if record.get("tools") is not None:
        _check_tools(record["tools"])


def is_trained(message: Mapping[str, Any]) -> bool:
    """Tell whether a message of a checked chat is an answer that is learned."""
    return message["role"] == "assistant" and message.get("weight") != 0


def template_messages(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a checked chat's messages as serving gives them to a chat template.

    Arguments of calls are objects, a message without content has the empty one, and a tool's result
    bears the function's name.
    """
    names: dict[str, str] = {}
    return [_for_template(message, names) for message in record["messages"]]


def template_tools(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return a checked chat's tools as serving gives them to a chat template; None if none."""
    return [_definition(tool["function"]) for tool in record.get("tools") or ()] or None


class _Calls:
    """The calls of the messages so far."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._chars = 0

    def add(self, id_: str, name: str, chars: int, where: str) -> None:
        if self.names.setdefault(id_, name) != name:
            raise Unfit(
                f"{where}.id", f"{id_[:80]!r} is the id of an earlier call, of another tool"
            )
        self._chars += chars
        if self._chars > _MAX_CALLS_CHARS:
            raise Unfit(
                where, f"the arguments of all calls have more than {_MAX_CALLS_CHARS} characters"
            )


def _check_message(message: object, where: str, calls: _Calls) -> None:
    if not isinstance(message, dict):
        raise Unfit(where, f"an object is expected, not {kind(message)}")
    role = message.get("role")
    if not isinstance(role, str) or role not in _KEYS:
        raise Unfit(f"{where}.role", f"one of {', '.join(_KEYS)} is expected")
    check_keys(message, where + ".")
    given = {key for key, value in message.items() if value is not None}
    _refuse_others(given, _KEYS[role], where)
    if "name" in given and len(check_text(message, "name", where + ".")) > _MAX_NAME:
        raise Unfit(f"{where}.name", f"longer than {_MAX_NAME} characters")
    if role == "assistant":
        _check_assistant(message, where, calls)
    elif role == "tool":
        _check_result(message, where, calls)
    else:
        check_text(message, "content", where + ".")


def _check_assistant(message: Mapping[str, Any], where: str, calls: _Calls) -> None:
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        shown = json.dumps(weight) if isinstance(weight, int | float) else kind(weight)
        raise Unfit(f"{where}.weight", f"0 or 1 is expected, not {shown[:40]}")
    made = message.get("tool_calls")
    if made is not None:
        _check_calls(made, f"{where}.tool_calls", calls)
        if message.get("content") is not None:
            check_text(message, "content", where + ".", empty=True)
    elif weight == 0:
        check_text(message, "content", where + ".")
    else:
        check_answer(message, "content", where + ".")


def _check_calls(made: object, where: str, calls: _Calls) -> None:
    if not isinstance(made, list) or not made:
        raise Unfit(where, "a list with at least one call is expected")
    if len(made) > _MAX_TOOL_CALLS:
        raise Unfit(where, f"{len(made)} calls; at most {_MAX_TOOL_CALLS} are allowed")
    for index, call in enumerate(made):
        place = f"{where}[{index}]"
        function = _function(call, place, {"id", "type", "function"})
        _refuse_others(set(function), {"name", "arguments"}, f"{place}.function")
        id_ = check_text(call, "id", place + ".")
        if len(id_) > _MAX_CALL_ID:
            raise Unfit(f"{place}.id", f"longer than {_MAX_CALL_ID} characters")
        name = _check_tool_name(function, f"{place}.function.")
        arguments = check_text(function, "arguments", f"{place}.function.")
        parse_object(arguments, f"{place}.function.arguments")
        calls.add(id_, name, len(arguments), place)


def _check_result(message: Mapping[str, Any], where: str, calls: _Calls) -> None:
    id_ = check_text(message, "tool_call_id", where + ".")
    if id_ not in calls.names:
        raise Unfit(f"{where}.tool_call_id", f"no earlier message has a call {id_[:80]!r}")
    check_text(message, "content", where + ".", empty=True)


def _check_tools(tools: object) -> None:
    if not isinstance(tools, list):
        raise Unfit("tools", f"a list is expected, not {kind(tools)}")
    if len(tools) > _MAX_TOOLS:
        raise Unfit("tools", f"{len(tools)} tools; at most {_MAX_TOOLS} are allowed")
    names: set[str] = set()
    chars = 0
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        function = _function(tool, place, {"type", "function"})
        place += ".function"
        # OpenAI's `strict` says how an answer is decoded: no template shows it.
        _refuse_others(set(function), {"name", "description", "parameters", "strict"}, place)
        name = _check_tool_name(function, place + ".")
        if name in names:
            raise Unfit(f"{place}.name", f"{name!r} is the name of another tool")
        names.add(name)
        if function.get("description") is not None:
            chars += len(check_text(function, "description", place + ".", empty=True))
        if function.get("parameters") is not None:
            chars += check_object(function["parameters"], f"{place}.parameters")
        if chars > _MAX_TOOLS_CHARS:
            raise Unfit(
                "tools", f"descriptions and schemas have more than {_MAX_TOOLS_CHARS} characters"
            )


def _function(outer: object, where: str, keys: set[str]) -> dict[str, Any]:
    """Return the function of a call or of a tool, which has no other keys."""
    if not isinstance(outer, dict):
        raise Unfit(where, f"an object is expected, not {kind(outer)}")
    check_keys(outer, where + ".")
    _refuse_others(set(outer), keys, where)
    if outer.get("type") != "function":
        raise Unfit(f"{where}.type", '"function" is expected')
    function = outer.get("function")
    if not isinstance(function, dict):
        raise Unfit(f"{where}.function", f"an object is expected, not {kind(function)}")
    check_keys(function, f"{where}.function.")
    return function


def _check_tool_name(function: Mapping[str, Any], where: str) -> str:
    name = check_text(function, "name", where)
    if not _TOOL_NAME.fullmatch(name):
        raise Unfit(f"{where}name", f"{name[:80]!r} is not 1 to 64 letters, digits, '_' and '-'")
    return name


def _refuse_others(given: set[str], known: set[str], where: str) -> None:
    others = sorted(given - known)
    if others:
        raise Unfit(f"{where}.{others[0][:64]}", "not supported")


def _for_template(message: Mapping[str, Any], names: dict[str, str]) -> dict[str, Any]:
    role = "system" if message["role"] == "developer" else message["role"]
    found: dict[str, Any] = {"role": role, "content": message.get("content") or ""}
    if message.get("tool_calls"):
        found["tool_calls"] = [
            _call(call["id"], call["function"]) for call in message["tool_calls"]
        ]
        names.update((call["id"], call["function"]["name"]) for call in message["tool_calls"])
    if message.get("tool_call_id"):
        found["tool_call_id"] = message["tool_call_id"]
        found["name"] = names[message["tool_call_id"]]
    return found


def _call(id_: str, function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.loads(function["arguments"])
    return {
        "id": id_,
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _definition(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters")
    return {
        "type": "function",
        "function": {
            "name": function["name"],
            "description": function.get("description") or "",
            "parameters": {"type": "object", "properties": {}}
            if parameters is None
            else parameters,
        },
    }

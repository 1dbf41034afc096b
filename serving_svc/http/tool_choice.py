"""Which tools the model must call: forced calls are a structure of the answer, read back from it.

Of one named tool the answer is the arguments; where any may be called, an array of
{"name": ..., "parameters": ...}.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serving_svc.generation.model import FinishReason, ToolCall
from serving_svc.http.convert_messages import as_json, too_deep
from tailorbird.errors import InvalidArgument
from tailorbird.http.fields import Fields, shown
from tailorbird.serving.v1 import inference_service_pb2 as pb

_ANY: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Choice:
    """`name` of the tool that must be called, or None where `required` says that any must be.

    With neither it is the model's choice; `none` keeps it from knowing the tools.
    """

    name: str | None = None
    required: bool = False
    none: bool = False

    @property
    def forced(self) -> bool:
        """Whether something must be called."""
        return self.required or self.name is not None

    @classmethod
    def read(cls, fields: Fields) -> Choice:
        """Read `tool_choice`."""
        found = fields.any("tool_choice")
        match found:
            case None | "auto":
                return cls()
            case "none":
                return cls(none=True)
            case "required":
                return cls(required=True)
            case dict():
                told = Fields(found, "tool_choice")
                told.only("type", "function", why="only functions are tools here")
                function = told.inner("function")
                if function is None:
                    raise InvalidArgument("tool_choice.function", "it is needed, and not given")
                name = function.needed_text("name")
                function.end()
                told.end()
                return cls(name)
        raise InvalidArgument(
            "tool_choice", f"{shown(found)} is not none, auto, required or a function's name"
        )

    def structure(self, tools: Sequence[pb.Tool], *, one_call: bool) -> str:
        """Return the JSON schema of an answer that makes the forced call, or calls."""
        names = [tool.name for tool in tools]
        if self.name is not None:
            if self.name not in names:
                raise InvalidArgument(
                    "tool_choice.function.name", f"{shown(self.name)} is no tool of this request"
                )
            return tools[names.index(self.name)].parameters_json_schema or as_json(_ANY)
        if not tools:
            raise InvalidArgument("tool_choice", "'required' is given without tools")
        definitions: dict[str, Any] = {}
        calls = [_call_schema(tool, definitions) for tool in tools]
        array = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
        if one_call:
            array["maxItems"] = 1
        return as_json(array | ({"$defs": definitions} if definitions else {}))

    def calls(self, text: str) -> list[ToolCall]:
        """Return the calls that an answer of this structure makes; none if it was cut short."""
        if self.name is not None:
            return [_made(self.name, text)]
        try:
            return [_made(call["name"], as_json(call["parameters"])) for call in json.loads(text)]
        except (ValueError, TypeError, KeyError, RecursionError, InvalidArgument):
            return []

    def reason(self, reason: FinishReason, calls: Sequence[ToolCall]) -> FinishReason:
        """Return why an answer ended, as OpenAI says it: a named tool's ends with "stop"."""
        if self.required and calls and reason is FinishReason.STOP:
            return FinishReason.TOOL_CALLS
        return reason


def _call_schema(tool: pb.Tool, definitions: dict[str, Any]) -> dict[str, Any]:
    try:
        schema = json.loads(tool.parameters_json_schema or as_json(_ANY))
    except RecursionError:
        raise too_deep() from None
    if isinstance(schema, dict):
        # A schema's references count from the root, which is now another.
        defined = schema.pop("$defs", {})
        if not isinstance(defined, dict):
            raise InvalidArgument("tools", f"$defs of {shown(tool.name)} is not an object")
        for name, definition in defined.items():
            if definitions.setdefault(name, definition) != definition:
                raise InvalidArgument(
                    "tools", f"two tools define {shown(name)} in $defs, and not alike"
                )
    return {
        "type": "object",
        "properties": {"name": {"enum": [tool.name]}, "parameters": schema},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _made(name: str, arguments: str) -> ToolCall:
    return ToolCall(f"call_{uuid.uuid4().hex}", name, arguments)

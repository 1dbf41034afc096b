"""Tools in chats: told to the base model by its template, and their calls read by vLLM's parser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import structlog
from jinja2 import TemplateError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers import ToolParserManager

from serving_svc.generation.model import Chat, Chunk, FinishReason, Message, Sink, Tool, ToolCall
from tailorbird.errors import FailedPrecondition, InvalidArgument, TailorbirdError

_log = structlog.get_logger(__name__)

_PROBE = Tool("tailorbird_probe")


class ToolParser:
    """Reads the calls of `tools` out of one answer, by one of vLLM's parsers."""

    def __init__(self, parser: type[Any], tokenizer: Any, tools: Sequence[Tool]) -> None:
        # Of a chat that offers tools the parsers read no more than these.
        self._request = ChatCompletionRequest(
            model="", messages=[], tools=[_definition(tool) for tool in tools]
        )
        self._parser = parser(tokenizer, self._request.tools)

    def parse(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return an answer's text without its calls, and the calls.

        Text that looks like a call and is none stays text: what the model writes is nobody's error.
        """
        try:
            found = self._parser.extract_tool_calls(text, self._request)
        except Exception as error:
            _log.warning("an answer's tool calls cannot be read", error=str(error)[:200])
            return text, []
        if not found.tools_called:
            return text, []
        calls = [
            ToolCall(call.id, call.function.name, call.function.arguments)
            for call in found.tool_calls
        ]
        return found.content or "", calls


class Tools:
    """What a base model can do with tools: its template takes them, a parser knows its calls."""

    def __init__(self, tokenizer: Any, parser: str | None) -> None:
        """Take vLLM's parser named `parser`; InvalidArgument if it has none of that name."""
        self._tokenizer = tokenizer
        self._parser: type[Any] | None = None
        if parser is not None:
            try:
                self._parser = ToolParserManager.get_tool_parser(parser)
            except KeyError as error:
                raise InvalidArgument(
                    "tool_call_parser",
                    f"{parser!r} is none of {', '.join(ToolParserManager.list_registered())}",
                ) from error
        self._in_template = _takes_tools(tokenizer)

    def check(self, chat: Chat) -> None:
        """Raise FailedPrecondition if `chat` offers tools and they cannot be served."""
        if not chat.tools:
            return
        if not self._in_template:
            raise FailedPrecondition(
                "the base model's chat template takes no tools", reason="TOOLS_UNSUPPORTED"
            )
        if self._parser is None:
            raise FailedPrecondition(
                "this server has no parser for tool calls: its setting tool_call_parser is unset",
                reason="TOOL_PARSER_UNSET",
            )

    def holding_back(self, sink: Sink, tools: Sequence[Tool]) -> Sink:
        """Return a sink that passes on each answer at its end, its calls taken out of its text."""
        self.check(Chat((), tuple(tools)))
        return _HoldingBack(sink, ToolParser(self._parser or object, self._tokenizer, tools))


class _HoldingBack:
    """Keeps an answer until its last chunk: before, none of its text is sure not to be a call."""

    def __init__(self, sink: Sink, parser: ToolParser) -> None:
        self._sink = sink
        self._parser = parser
        self._kept: dict[int, list[Chunk]] = {}

    def count(self, tokens: int) -> None:
        self._sink.count(tokens)

    def put(self, chunk: Chunk) -> None:
        kept = self._kept.setdefault(chunk.index, [])
        kept.append(chunk)
        if chunk.finish_reason is None:
            return
        del self._kept[chunk.index]
        text, calls = self._parser.parse("".join(one.text for one in kept))
        chunk.text = text
        chunk.token_ids = [id_ for one in kept for id_ in one.token_ids]
        chunk.logprobs = [entry for one in kept for entry in one.logprobs]
        chunk.tool_calls = calls
        if calls and chunk.finish_reason is FinishReason.STOP:
            chunk.finish_reason = FinishReason.TOOL_CALLS
        self._sink.put(chunk)

    def fail(self, error: TailorbirdError) -> None:
        self._kept.clear()
        self._sink.fail(error)


def template_messages(chat: Chat) -> list[dict[str, Any]]:
    """Return a chat's messages as chat templates expect them: arguments as objects, not as text."""
    names = {call.id: call.name for message in chat.messages for call in message.tool_calls}
    return [_message(message, names) for message in chat.messages]


def template_tools(chat: Chat) -> list[dict[str, Any]] | None:
    """Return a chat's tools as chat templates expect them; None if it has none."""
    return [_definition(tool) for tool in chat.tools] or None


def _message(message: Message, names: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments_json)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
        found["name"] = names.get(message.tool_call_id, "")
    return found


def _definition(tool: Tool) -> dict[str, Any]:
    schema = tool.parameters_json_schema
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": json.loads(schema) if schema else {"type": "object", "properties": {}},
        },
    }


def _takes_tools(tokenizer: Any) -> bool:
    """Tell whether a tool is seen in what the template renders."""
    if not tokenizer.chat_template:
        return False
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": ""}], tools=[_definition(_PROBE)], tokenize=False
        )
    except TemplateError:
        return False
    return _PROBE.name in rendered

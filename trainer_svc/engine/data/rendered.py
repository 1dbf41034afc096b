"""Chats of a dataset, and the token ids that they become, for serving to do the same with them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from pydantic import ValidationError

from tailorbird.errors import FailedPrecondition
from tailorbird.manifest import (
    MAX_CHAT_CHARS,
    MAX_CHATS,
    ChatMessage,
    ChatTool,
    ChatToolCall,
    RenderedChat,
)
from tailorbird.records.chats import is_trained
from trainer_svc.engine.data.encoding import Encoder
from trainer_svc.engine.data.template import PLAIN, Renderer, as_chat

_LOOKED_AT = 4096
"""Records of a file that chats are chosen from: the first ones, so that little time is spent."""
_MOST_KINDS = 32

_CHANGING = re.compile(r"strftime_now|\|\s*random\b")
"""What makes a template render the same chat otherwise tomorrow."""

Record = Mapping[str, Any]


class ChatPool:
    """Looks at records as they pass, and keeps some of each kind: roles, tools, calls, turns."""

    def __init__(self, record_format: str) -> None:
        self._left = 0 if record_format in PLAIN else _LOOKED_AT
        self._kinds: dict[frozenset[str], list[tuple[int, Record]]] = {}

    def seen(self, records: Iterable[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
        """Pass the records on."""
        for line, record in records:
            if self._left:
                self._left -= 1
                self._look(line, record)
            yield line, record

    def rendered(self, tokenizer: Any, limit: int) -> tuple[RenderedChat, ...]:
        """Return up to MAX_CHATS chats that training has prompts of, of as many kinds as there are.

        None is longer than `limit` tokens or what a certificate holds; none at all is there if the
        template renders by the clock or by chance.
        """
        if not self._kinds or _CHANGING.search(str(tokenizer.chat_template)):
            return ()
        renderer = Renderer(tokenizer, "chat")
        encoder = Encoder(tokenizer, special_tokens=False)
        kinds = sorted(self._kinds.items(), key=lambda kind: (-len(kind[0]), kind[1][0][0]))
        # One of each kind before a second of any.
        in_turn = chain.from_iterable(zip_longest(*(records for _, records in kinds)))
        found: list[RenderedChat] = []
        for line, record in filter(None, in_turn):
            if len(found) == MAX_CHATS:
                break
            if chat := _rendered(renderer, encoder, line, record, limit):
                found.append(chat)
        return tuple(found)

    def _look(self, line: int, record: Record) -> None:
        messages, tools = as_chat(record)["messages"], record.get("tools")
        asked = _asked(messages)
        chars = sum(len(message.get("content") or "") for message in asked)
        if not asked or chars > MAX_CHAT_CHARS:
            return
        record = {"messages": messages[: len(asked) + 1], "tools": tools}
        kind = _kind(asked, tools)
        if kind in self._kinds or len(self._kinds) < _MOST_KINDS:
            kept = self._kinds.setdefault(kind, [])
            if len(kept) < MAX_CHATS:
                kept.append((line, record))


def _asked(messages: Sequence[Record]) -> Sequence[Record]:
    """Return what is before the last answer that is trained; nothing if serving is not asked so."""
    trained = [place for place, message in enumerate(messages) if is_trained(message)]
    asked = messages[: trained[-1]] if trained else ()
    return asked if asked and asked[-1]["role"] != "assistant" else ()


def _kind(asked: Sequence[Record], tools: object) -> frozenset[str]:
    marks = {message["role"] for message in asked}
    if any(message.get("tool_calls") for message in asked):
        marks.add("calls")
    return frozenset(marks | {"tools"} if tools else marks)


def _rendered(
    renderer: Renderer, encoder: Encoder, line: int, record: Record, limit: int
) -> RenderedChat | None:
    """Return None for what is too long, or cannot be trained on."""
    try:
        chat = RenderedChat(
            messages=tuple(map(_message, _asked(record["messages"]))),
            tools=tuple(_tool(tool["function"]) for tool in record.get("tools") or ()),
            # In place of its own, which take long to find for what is too long.
            token_ids=(0,),
        )
        ((prompt, _),) = encoder.encode([renderer.turns(record, line)[-1]])
        if len(prompt) > limit:
            return None
        return RenderedChat(messages=chat.messages, tools=chat.tools, token_ids=tuple(prompt))
    except (FailedPrecondition, ValidationError):
        return None


def _message(message: Record) -> ChatMessage:
    role = "system" if message["role"] == "developer" else message["role"]
    return ChatMessage(
        role=role,
        content=message.get("content") or "",
        tool_calls=tuple(
            ChatToolCall(
                id=call["id"],
                name=call["function"]["name"],
                arguments_json=call["function"]["arguments"],
            )
            for call in message.get("tool_calls") or ()
        ),
        tool_call_id=message.get("tool_call_id") or "",
    )


def _tool(function: Record) -> ChatTool:
    parameters = function.get("parameters")
    return ChatTool(
        name=function["name"],
        description=function.get("description") or "",
        parameters_json_schema="" if parameters is None else json.dumps(parameters),
    )

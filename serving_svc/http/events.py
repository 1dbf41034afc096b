"""A stream's pieces as server-sent events, written by hand: one is made for each few tokens."""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii
from typing import Protocol

from serving_svc.generation.model import Chunk
from serving_svc.http.convert_answers import (
    called,
    chat_logprobs,
    text_logprobs,
    tool_call,
    usage,
)
from serving_svc.http.convert_request import Asked

_END = b"data: [DONE]\n\n"


class Events(Protocol):
    """What a stream's pieces become."""

    def of(self, chunk: Chunk) -> bytes:
        """Return the event for `chunk`, and for the last one those that end the stream."""


def events(asked: Asked, answer_id: str, created: int) -> Events:
    """Return what writes the events of `asked`; `created` in seconds since 1970."""
    kind = ChatEvents if asked.chat else TextEvents
    return kind(asked, answer_id, created)


def event(data: bytes) -> bytes:
    """Return an event whose data is a line of JSON."""
    return b"data: " + data + b"\n\n"


class _Frame:
    """What all events of a stream begin and end with."""

    def __init__(self, asked: Asked, kind: str, answer_id: str, created: int) -> None:
        told = {"id": answer_id, "object": kind, "created": created, "model": asked.model}
        self._with_usage = asked.with_usage
        self.head = "data: " + _json(told)[:-1] + ',"choices":['
        self.tail = "]" + (',"usage":null' if asked.with_usage else "") + "}\n\n"

    def last(self, chunk: Chunk) -> bytes:
        """Return what follows the last piece."""
        if chunk.usage is None:
            return b""
        if not self._with_usage:
            return _END
        return f'{self.head}],"usage":{_json(usage(chunk.usage))}}}\n\n'.encode() + _END


class ChatEvents:
    """Of a chat: chat.completion.chunk."""

    def __init__(self, asked: Asked, answer_id: str, created: int) -> None:
        self._frame = _Frame(asked, "chat.completion.chunk", answer_id, created)
        self._choice = asked.choice
        self._begun: set[int] = set()
        self._plain = f'{self._frame.head}{{"index":0,"delta":{{"content":'
        self._plain_end = f'}},"logprobs":null,"finish_reason":null}}{self._frame.tail}'

    def of(self, chunk: Chunk) -> bytes:
        """See Events."""
        if (
            chunk.finish_reason is None
            and not chunk.logprobs
            and self._begun == {0} == {chunk.index}
        ):
            return f"{self._plain}{encode_basestring_ascii(chunk.text)}{self._plain_end}".encode()
        return self._any(chunk)

    def _any(self, chunk: Chunk) -> bytes:
        delta: dict[str, object] = {}
        if chunk.index not in self._begun:
            self._begun.add(chunk.index)
            delta["role"] = "assistant"
        text, reason = chunk.text, None
        if chunk.finish_reason is not None:
            text, calls, reason = called(self._choice, text, chunk.tool_calls, chunk.finish_reason)
            if calls:
                delta["tool_calls"] = [
                    {"index": index} | tool_call(call) for index, call in enumerate(calls)
                ]
        if text or "role" in delta:
            delta["content"] = text
        piece = {
            "index": chunk.index,
            "delta": delta,
            "logprobs": chat_logprobs(chunk.logprobs) if chunk.logprobs else None,
            "finish_reason": reason,
        }
        frame = self._frame
        return f"{frame.head}{_json(piece)}{frame.tail}".encode() + frame.last(chunk)


class TextEvents:
    """Of a completion: text_completion."""

    def __init__(self, asked: Asked, answer_id: str, created: int) -> None:
        self._frame = _Frame(asked, "text_completion", answer_id, created)
        self._plain = f'{self._frame.head}{{"index":0,"text":'
        self._plain_end = f',"logprobs":null,"finish_reason":null}}{self._frame.tail}'
        self._offsets: dict[int, int] = {}

    def of(self, chunk: Chunk) -> bytes:
        """See Events."""
        if chunk.finish_reason is None and not chunk.logprobs and not chunk.index:
            return f"{self._plain}{encode_basestring_ascii(chunk.text)}{self._plain_end}".encode()
        return self._any(chunk)

    def _any(self, chunk: Chunk) -> bytes:
        logprobs = None
        if chunk.logprobs:
            offset = self._offsets.get(chunk.index, 0)
            logprobs = text_logprobs(chunk.logprobs, offset)
            length = sum(len(entry.token.text) for entry in chunk.logprobs)
            self._offsets[chunk.index] = offset + length
        piece = {
            "index": chunk.index,
            "text": chunk.text,
            "logprobs": logprobs,
            "finish_reason": None if chunk.finish_reason is None else chunk.finish_reason.value,
        }
        frame = self._frame
        return f"{frame.head}{_json(piece)}{frame.tail}".encode() + frame.last(chunk)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))

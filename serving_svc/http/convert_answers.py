"""Whole answers, and what they have in common with pieces of streams, as OpenAI's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving_svc.generation.model import (
    Answer,
    Completion,
    FinishReason,
    TokenLogprob,
    TokenLogprobs,
    ToolCall,
    Usage,
)
from serving_svc.http.convert_request import Asked
from serving_svc.http.tool_choice import Choice

Json = dict[str, Any]

_BROKEN = "\ufffd"


def chat_answer(asked: Asked, answer: Answer, answer_id: str, created: int) -> Json:
    """Return a chat.completion; `created` in seconds since 1970."""
    choices = [_chat_choice(asked.choice, i, one) for i, one in enumerate(answer.completions)]
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": created,
        "model": asked.model,
        "choices": choices,
        "usage": usage(answer.usage),
    }


def text_answer(asked: Asked, answer: Answer, answer_id: str, created: int) -> Json:
    """Return a text_completion; `created` in seconds since 1970."""
    return {
        "id": answer_id,
        "object": "text_completion",
        "created": created,
        "model": asked.model,
        "choices": [
            {
                "index": index,
                "text": one.text,
                "logprobs": text_logprobs(one.logprobs, 0) if one.logprobs else None,
                "finish_reason": one.finish_reason.value,
            }
            for index, one in enumerate(answer.completions)
        ],
        "usage": usage(answer.usage),
    }


def called(
    choice: Choice, text: str, calls: Sequence[ToolCall], reason: FinishReason
) -> tuple[str, Sequence[ToolCall], str]:
    """Return an answer's text, its calls, and why it ended, where a call may be forced."""
    if choice.forced:
        calls = choice.calls(text)
        if calls:
            text = ""
        reason = choice.reason(reason, calls)
    return text, calls, reason.value


def tool_call(call: ToolCall) -> Json:
    """Return a call as messages have it."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments_json},
    }


def usage(used: Usage) -> Json:
    """Return what was used, in tokens."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def chat_logprobs(entries: Sequence[TokenLogprobs]) -> Json:
    """Return tokens with their logprobs as chats tell them."""
    return {
        "content": [
            _logprob(entry.token) | {"top_logprobs": [_logprob(one) for one in entry.top]}
            for entry in entries
        ],
        "refusal": None,
    }


def text_logprobs(entries: Sequence[TokenLogprobs], offset: int) -> Json:
    """Return tokens with their logprobs as completions tell them; the first begins at `offset`."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token.text)
    return {
        "tokens": [entry.token.text for entry in entries],
        "token_logprobs": [entry.token.logprob for entry in entries],
        "top_logprobs": [{one.text: one.logprob for one in entry.top} for entry in entries],
        "text_offset": offsets,
    }


def _chat_choice(choice: Choice, index: int, completion: Completion) -> Json:
    text, calls, reason = called(
        choice, completion.text, completion.tool_calls, completion.finish_reason
    )
    message: Json = {
        "role": "assistant",
        "content": text or (None if calls else ""),
        "refusal": None,
    }
    if calls:
        message["tool_calls"] = [tool_call(call) for call in calls]
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(completion.logprobs) if completion.logprobs else None,
        "finish_reason": reason,
    }


def _logprob(token: TokenLogprob) -> Json:
    # A part of a character has bytes that its text does not tell.
    known = _BROKEN not in token.text
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.text.encode()) if known else None,
    }

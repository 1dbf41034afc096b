"""OpenAI's routes on a real socket: what is written."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serving_svc.generation.model import (
    Chunk,
    Completion,
    FinishReason,
)
from tests.integration.openai_edge import (
    CALL,
    CHAT,
    LENGTH,
    LOGPROBS,
    STOP,
    STREAM,
    USAGE,
    VERSION,
    WEATHER,
    Edge,
    answers,
)


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    edge = Edge()
    await edge.server.start()
    yield edge
    await edge.server.stop(0)


class TestWholeAnswers:
    async def test_a_chat(self, edge: Edge) -> None:
        answers(edge, Completion("Hello.", STOP), version=VERSION)
        told = await edge.post(CHAT)
        assert told.headers["x-tailorbird-version"] == str(VERSION)
        assert told.headers["x-tailorbird-route-generation"] == "7"
        body = told.json()
        assert body.pop("id").startswith("chatcmpl-")
        assert body.pop("created") > 1_700_000_000
        message = {"role": "assistant", "content": "Hello.", "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        assert body == {
            "object": "chat.completion",
            "model": "support",
            "choices": [choice],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
        (asked,) = edge.scripted.asked
        assert (asked.final_only, str(asked.adapter)) == (True, "tenants/acme/adapters/support")

    async def test_calls_and_logprobs(self, edge: Edge) -> None:
        calls = Completion("", FinishReason.TOOL_CALLS, tool_calls=(CALL,), logprobs=(LOGPROBS,))
        answers(edge, Completion("x", LENGTH), calls)
        body = (await edge.post(CHAT | {"n": 2, "tools": [WEATHER]})).json()
        first, second = body["choices"]
        assert (first["index"], first["finish_reason"]) == (0, "length")
        assert (second["index"], second["finish_reason"]) == (1, "tool_calls")
        function = {"name": "weather", "arguments": '{"city":"Rome"}'}
        assert second["message"]["content"] is None
        assert second["message"]["tool_calls"] == [
            {"id": "call_1", "type": "function", "function": function}
        ]
        (entry,) = second["logprobs"]["content"]
        assert (entry["token"], entry["logprob"], entry["bytes"]) == ("é", -0.5, [195, 169])
        # Half a character has bytes that nobody knows.
        assert [one["bytes"] for one in entry["top_logprobs"]] == [[195, 169], None]

    async def test_forced_calls(self, edge: Edge) -> None:
        named = {"type": "function", "function": {"name": "weather"}}
        answers(edge, Completion('{"city":"Rome"}', STOP))
        body = (await edge.post(CHAT | {"tools": [WEATHER], "tool_choice": named})).json()
        (choice,) = body["choices"]
        (call,) = choice["message"]["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
        assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", None)
        answers(edge, Completion('[{"name":"weather","parameters":{"a":1}}]', STOP))
        body = (await edge.post(CHAT | {"tools": [WEATHER], "tool_choice": "required"})).json()
        (choice,) = body["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
        # Cut short it is no call, and shown as it is.
        answers(edge, Completion('[{"name":', LENGTH))
        body = (await edge.post(CHAT | {"tools": [WEATHER], "tool_choice": "required"})).json()
        (choice,) = body["choices"]
        assert choice["finish_reason"] == "length"
        assert choice["message"] == {
            "role": "assistant",
            "content": '[{"name":',
            "refusal": None,
        }

    async def test_a_completion(self, edge: Edge) -> None:
        answers(edge, Completion("é", STOP, logprobs=(LOGPROBS, LOGPROBS)))
        told = await edge.post({"model": "demo-base", "prompt": "Hi"}, "/completions")
        assert "x-tailorbird-version" not in told.headers
        body = told.json()
        assert (body["object"], body["model"]) == ("text_completion", "demo-base")
        (choice,) = body["choices"]
        assert choice == {
            "index": 0,
            "text": "é",
            "finish_reason": "stop",
            "logprobs": {
                "tokens": ["é", "é"],
                "token_logprobs": [-0.5, -0.5],
                "top_logprobs": [{"é": -0.5, "\ufffd": -1.5}] * 2,
                "text_offset": [0, 1],
            },
        }


class TestStreams:
    async def test_a_chat(self, edge: Edge) -> None:
        edge.scripted.chunks = [
            Chunk("a", version=VERSION, route_generation=7),
            Chunk('"\n\u2028é\U0001f600'),
            Chunk("!", STOP, usage=USAGE),
        ]
        told = await edge.post(STREAM)
        assert told.headers["x-tailorbird-version"] == str(VERSION)
        assert told.headers["x-tailorbird-route-generation"] == "7"
        assert told.headers["cache-control"] == "no-cache"
        *events, done = await edge.events(STREAM)
        assert done == "[DONE]"
        assert {event["object"] for event in events} == {"chat.completion.chunk"}
        assert {event["model"] for event in events} == {"support"}
        assert len({event["id"] for event in events}) == 1
        assert "usage" not in events[0]
        choices = [event["choices"][0] for event in events]
        assert [one["delta"] for one in choices] == [
            {"role": "assistant", "content": "a"},
            {"content": '"\n\u2028é\U0001f600'},
            {"content": "!"},
        ]
        assert [one["finish_reason"] for one in choices] == [None, None, "stop"]

    async def test_its_usage_comes_last(self, edge: Edge) -> None:
        *events, last, done = await edge.events(
            STREAM | {"stream_options": {"include_usage": True}}
        )
        assert done == "[DONE]"
        assert [event["usage"] for event in events] == [None, None, None]
        assert last["choices"] == []
        assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

    async def test_several_completions_with_logprobs_and_calls(self, edge: Edge) -> None:
        edge.scripted.chunks = [
            Chunk("a", index=1),
            Chunk("b", logprobs=[LOGPROBS]),
            Chunk("c", index=1),
            Chunk("", STOP, index=1),
            Chunk("", FinishReason.TOOL_CALLS, tool_calls=[CALL, CALL], usage=USAGE),
        ]
        *events, _ = await edge.events(STREAM | {"n": 2, "tools": [WEATHER]})
        choices = [event["choices"][0] for event in events]
        assert [one["index"] for one in choices] == [1, 0, 1, 1, 0]
        assert ["role" in one["delta"] for one in choices] == [True, True, False, False, False]
        assert choices[1]["logprobs"]["content"][0]["token"] == "é"
        assert choices[3]["delta"] == {}
        assert [one["index"] for one in choices[4]["delta"]["tool_calls"]] == [0, 1]
        assert choices[4]["finish_reason"] == "tool_calls"

    async def test_a_forced_call(self, edge: Edge) -> None:
        edge.scripted.chunks = [Chunk('[{"name":"weather","parameters":{}}]', STOP, usage=USAGE)]
        event, _ = await edge.events(STREAM | {"tools": [WEATHER], "tool_choice": "required"})
        (choice,) = event["choices"]
        assert choice["delta"]["tool_calls"][0]["function"] == {
            "name": "weather",
            "arguments": "{}",
        }
        assert (choice["delta"]["content"], choice["finish_reason"]) == ("", "tool_calls")

    async def test_a_completion(self, edge: Edge) -> None:
        edge.scripted.chunks = [
            Chunk("a"),
            Chunk("é", logprobs=[LOGPROBS]),
            Chunk("é", logprobs=[LOGPROBS], index=0),
            Chunk("b", LENGTH, usage=USAGE),
        ]
        body = {"model": "demo-base", "prompt": "Hi", "stream": True}
        *events, done = await edge.events(body, "/completions")
        assert done == "[DONE]"
        choices = [event["choices"][0] for event in events]
        assert [one["text"] for one in choices] == ["a", "é", "é", "b"]
        assert [(one["logprobs"] or {}).get("text_offset") for one in choices] == [
            None,
            [0],
            [1],
            None,
        ]
        assert [one["finish_reason"] for one in choices] == [None, None, None, "length"]

"""What a request may not say, named as its caller wrote it; and what changes no answer."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import pytest

from tailorbird.errors import InvalidArgument
from tests.unit.serving_svc.http.asked import HELLO, WEATHER, chat, complete, said

HARMLESS: dict[str, Any] = {
    "user": "u",
    "metadata": {"a": "b"},
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "store": False,
    "service_tier": "auto",
    "seed": None,
    "parallel_tool_calls": True,
    "modalities": ["text"],
}


def test_what_changes_no_answer_is_passed_over() -> None:
    assert chat(**HARMLESS).request == chat().request
    assert complete(echo=False, best_of=1, suffix="").request == complete().request


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"temprature": 1}, "temprature", "no such field"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "no such field"),
        ({"store": True}, "store", "no answer is kept"),
        ({"service_tier": "flex"}, "service_tier", "one tier"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "several tools"),
        ({"temperature": 3}, "temperature", "3 is not 0 to 2"),
        ({"temperature": "hot"}, "temperature", "'hot' is not a number"),
        ({"n": 17}, "n", "17 is not 1 to 16"),
        ({"n": True}, "n", "true is not a whole number"),
        ({"seed": 2**63}, "seed", "is not -9223372036854775808"),
        ({"max_tokens": 0}, "max_tokens", "0 is not at least 1"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "0 is not at least 1"),
        ({"max_completion_tokens": 1, "max_tokens": 1}, "max_tokens", "says the same"),
        ({"stop": ["a", 5]}, "stop[1]", "5 is not a string"),
        ({"stop": ["a", ""]}, "stop[1]", "0 characters"),
        ({"logit_bias": [1]}, "logit_bias", "an array is not an object"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is not a token's id"),
        ({"logit_bias": {"5": "1"}}, "logit_bias.5", "'1' is not a number"),
        ({"logit_bias": {"5": 200}}, "logit_bias[5]", "200 is not -100 to 100"),
        ({"top_logprobs": 2}, "top_logprobs", "without logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "21 is not 0 to 20"),
        ({"stream_options": {}}, "stream_options", "without stream: true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "no such field"),
        ({"messages": []}, "messages", "at least 1 message"),
        ({"messages": None}, "messages", "not given"),
        ({"messages": ["x"]}, "messages[0]", "'x' is not an object"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role", "'robot' is not one of"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "not given"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content",
            "5 is neither a string nor",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "text only",
        ),
        (
            {"messages": [*HELLO, {"role": "assistant", "content": "x"}]},
            "messages[1].role",
            "the last message is assistant's",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].tool_call_id",
            "with tool it names",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "functions"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "not given"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "letters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
            "not a JSON object",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "strict": True}}]},
            "tools[0].function.strict",
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice", "without tools"),
        ({"tool_choice": "any"}, "tool_choice", "'any' is not none"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "not given"),
        (
            {
                "tool_choice": "required",
                "tools": [WEATHER],
                "response_format": {"type": "json_object"},
            },
            "tool_choice",
            "another structure",
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [WEATHER]},
            "tool_choice.function.name",
            "no tool of this request",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'xml' is not text"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "not given",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema",
            "5 is not a JSON schema",
        ),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "one of"),
        ({"structured_outputs": {"choice": ["a", "a"]}}, "structured_outputs.choice[1]", "same"),
        ({"structured_outputs": {"choice": ["a", 5]}}, "structured_outputs.choice[1]", "5 is not"),
        ({"structured_outputs": {"json": ""}}, "structured_outputs.json", "not a JSON schema"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "0 are given"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "0 bytes"),
        ({"routing_key": "x" * 257}, "routing_key", "257 characters"),
        ({"priority": 101}, "priority", "101 is not"),
        ({"model": None}, "model", "not given"),
        ({"model": 5}, "model", "5 is not a string"),
    ],
)
def test_what_is_wrong_with_a_chat_is_named_as_the_caller_wrote_it(
    fields: dict[str, Any], field: str, text: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        chat(**fields)
    assert said(caught)[0] == field
    assert text in said(caught)[1]


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"prompt": None}, "prompt", "not given"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": ["a", "b"]}, "prompt", "2 prompts; 1 a request"),
        ({"prompt": [5, "a"]}, "prompt", "2 prompts"),
        ({"prompt": [5, 1.5]}, "prompt[1]", "1.5 is not a token's id"),
        ({"prompt": [5, 100]}, "prompt[1]", "100 is not in [0, 100)"),
        ({"prompt": [5] * 51}, "prompt", "51 tokens are given; at most 50"),
        ({"prompt": {}}, "prompt", "an object is neither"),
        ({"echo": True}, "echo", "not repeated"),
        ({"suffix": "x"}, "suffix", "nothing is inserted"),
        ({"best_of": 3}, "best_of", "as many as n"),
        ({"messages": HELLO}, "messages", "no such field"),
        ({"logprobs": True}, "logprobs", "true is not a whole number"),
        ({"logprobs": 30}, "logprobs", "30 is not 0 to 20"),
    ],
)
def test_what_is_wrong_with_a_completion_is_named(
    fields: dict[str, Any], field: str, text: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        complete(**fields)
    assert said(caught)[0] == field
    assert text in said(caught)[1]


@pytest.mark.parametrize("defined", [[], "x", None])
def test_definitions_of_a_tool_are_an_object(defined: object) -> None:
    tool = {"type": "function", "function": {"name": "w", "parameters": {"$defs": defined}}}
    with pytest.raises(InvalidArgument) as caught:
        chat(tools=[tool], tool_choice="required")
    assert said(caught) == ("tools", "$defs of 'w' is not an object")


@pytest.mark.parametrize("kind", ["parameters", "parameters, forced", "schema", "json"])
def test_what_nests_too_deep_is_the_caller_s_fault_wherever_the_stack_ends(kind: str) -> None:
    nested: dict[str, Any] = {}
    for _ in range(sys.getrecursionlimit()):
        nested = {"a": nested}
        tools = [{"type": "function", "function": {"name": "w", "parameters": nested}}]
        fields: dict[str, dict[str, Any]] = {
            "parameters": {"tools": tools},
            "parameters, forced": {"tools": tools, "tool_choice": "required"},
            "schema": {
                "response_format": {"type": "json_schema", "json_schema": {"schema": nested}}
            },
            "json": {"structured_outputs": {"json": nested}},
        }
        with suppress(InvalidArgument):
            chat(**fields[kind])
    with pytest.raises(InvalidArgument):
        chat(**fields[kind])

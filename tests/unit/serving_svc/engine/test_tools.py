"""Tools in chats: a real tokenizer's template, and vLLM's own parser of calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from serving_svc.engine.tools import ToolParser, Tools, template_messages, template_tools
from serving_svc.generation.model import (
    Chat,
    Chunk,
    FinishReason,
    Message,
    Tool,
    ToolCall,
    Usage,
)
from tailorbird.errors import Aborted, FailedPrecondition, InvalidArgument, TailorbirdError

WEATHER = Tool("weather", "Tells it.", '{"type": "object", "properties": {"city": {}}}')
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
WITH_TOOLS = (
    "{% for t in tools or [] %}[{{ t.function.name }}:{{ t.function.parameters | tojson }}]"
    "{% endfor %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.name }} {{ c.function.arguments | tojson }}>"
    "{% endfor %};{% endfor %}"
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


def tokenizer(template: str | None) -> Any:
    alphabet = {c: i for i, c in enumerate(["<end>", *sorted(ByteLevel.alphabet())])}
    model = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    model.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token="<end>", chat_template=template
    )


class Heard:
    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.errors: list[TailorbirdError] = []
        self.tokens = 0

    def count(self, tokens: int) -> None:
        self.tokens += tokens

    def put(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def fail(self, error: TailorbirdError) -> None:
        self.errors.append(error)


@pytest.fixture
def tools() -> Tools:
    return Tools(tokenizer(WITH_TOOLS), "hermes")


def chat(*offered: Tool) -> Chat:
    return Chat((Message("user", "Hi"),), offered)


def test_a_template_sees_tools_calls_and_results() -> None:
    asked = Chat(
        (
            Message("user", "Rain?"),
            Message("assistant", "", (ToolCall("c1", "weather", '{"city": "Bonn"}'),)),
            Message("tool", "yes", (), "c1"),
        ),
        (WEATHER, Tool("stop")),
    )
    rendered = tokenizer(WITH_TOOLS).apply_chat_template(
        template_messages(asked), tools=template_tools(asked), tokenize=False
    )
    assert '[weather:{"type": "object", "properties": {"city": {}}}][stop:{' in rendered
    assert 'user:Rain?;assistant:<weather {"city": "Bonn"}>;tool:yes;' in rendered
    assert template_messages(asked)[2]["name"] == "weather"
    assert template_tools(chat()) is None


@pytest.mark.parametrize("template", [None, PLAIN, "{{ raise_exception('no') }}"])
def test_a_template_without_tools_refuses_them(template: str | None) -> None:
    tools = Tools(tokenizer(template), "hermes")
    tools.check(chat())
    with pytest.raises(FailedPrecondition) as caught:
        tools.check(chat(WEATHER))
    assert caught.value.reason == "TOOLS_UNSUPPORTED"


def test_without_a_parser_tools_are_refused() -> None:
    tools = Tools(tokenizer(WITH_TOOLS), None)
    tools.check(chat())
    with pytest.raises(FailedPrecondition) as caught:
        tools.check(chat(WEATHER))
    assert caught.value.reason == "TOOL_PARSER_UNSET"
    with pytest.raises(FailedPrecondition):
        tools.holding_back(Heard(), [WEATHER])


def test_a_parser_that_vllm_has_not_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"'nonsense' is none of .*hermes"):
        Tools(tokenizer(WITH_TOOLS), "nonsense")


def test_calls_are_taken_out_of_the_text_at_the_end(tools: Tools) -> None:
    heard = Heard()
    sink = tools.holding_back(heard, [WEATHER])
    text = f"Let me see. {CALL}"
    for index, character in enumerate(text):
        sink.put(Chunk(character, token_ids=[index]))
        assert heard.chunks == []
    sink.put(Chunk("", FinishReason.STOP, usage=Usage(3, 2)))
    (chunk,) = heard.chunks
    assert chunk.text == "Let me see. "
    assert (chunk.finish_reason, chunk.usage) == (FinishReason.TOOL_CALLS, Usage(3, 2))
    assert list(chunk.token_ids) == list(range(len(text)))
    (call,) = chunk.tool_calls
    assert (call.name, json.loads(call.arguments_json)) == ("weather", {"city": "Köln"})
    assert call.id


def test_answers_of_one_request_are_held_apart(tools: Tools) -> None:
    heard = Heard()
    sink = tools.holding_back(heard, [WEATHER])
    sink.put(Chunk("No "))
    sink.put(Chunk(CALL, FinishReason.LENGTH, index=1))
    sink.put(Chunk("idea.", FinishReason.STOP))
    assert [(one.index, one.text, one.finish_reason) for one in heard.chunks] == [
        (1, "", FinishReason.LENGTH),
        (0, "No idea.", FinishReason.STOP),
    ]
    assert len(heard.chunks[0].tool_calls) == 1


def test_an_error_passes_and_nothing_of_the_text(tools: Tools) -> None:
    heard = Heard()
    sink = tools.holding_back(heard, [WEATHER])
    sink.put(Chunk("a"))
    sink.fail(Aborted("the engine died"))
    assert (heard.chunks, len(heard.errors)) == ([], 1)


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        "<tool_call>",
        "<tool_call>{",
        '<tool_call>{"name": 1}</tool_call>',
        "<tool_call>" * 50,
    ],
)
def test_what_only_looks_like_a_call_stays_text(tools: Tools, text: str) -> None:
    heard = Heard()
    sink = tools.holding_back(heard, [WEATHER])
    sink.put(Chunk(text, FinishReason.STOP))
    assert (heard.chunks[0].text, heard.chunks[0].tool_calls) == (text, [])
    assert heard.chunks[0].finish_reason is FinishReason.STOP


def test_a_parser_that_raises_leaves_the_text() -> None:
    class Raising:
        def __init__(self, *_: Any) -> None: ...

        def extract_tool_calls(self, *_: Any) -> Any:
            raise RuntimeError("no")

    assert ToolParser(Raising, None, [WEATHER]).parse("a") == ("a", [])

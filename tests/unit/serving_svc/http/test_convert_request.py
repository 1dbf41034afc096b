"""OpenAI's JSON, as what is generated: each field honoured, or refused by its name."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from serving_svc.generation.model import Chat, Structure, Text, TokenIds
from tailorbird.errors import InvalidArgument, NotFound
from tailorbird.names import VersionName
from tailorbird.rpc.auth import LOCAL_CALLER
from tests.unit.serving_svc.http.asked import (
    MODEL,
    VERSION,
    WEATHER,
    chat,
    complete,
)


class TestModels:
    @pytest.mark.parametrize(
        ("model", "adapter", "version"),
        [
            (MODEL, MODEL, None),
            (VERSION, MODEL, VERSION),
            ("support", MODEL, None),
            (VERSION.removeprefix("tenants/acme/adapters/"), MODEL, VERSION),
            ("demo-base", None, None),
        ],
    )
    def test_names(self, model: str, adapter: str | None, version: str | None) -> None:
        asked = chat(model=model)
        found = asked.request
        assert asked.model == model
        assert str(found.tenant) == "tenants/acme"
        assert (found.adapter and str(found.adapter)) == adapter
        assert (found.version and str(found.version)) == version

    @pytest.mark.parametrize(
        "model",
        [
            "tenants/globex/adapters/support",
            "GPT_4",
            "tenants/acme",
            "tenants/acme/adapters/support/versions/new",
            "",
            "../../x" * 1000,
        ],
    )
    def test_what_is_none_and_what_is_anothers_do_not_exist(self, model: str) -> None:
        with pytest.raises(NotFound) as caught:
            chat(model=model)
        assert caught.value.reason == "MODEL_NOT_FOUND"
        assert caught.value.message.startswith("the model ")
        assert len(caught.value.message) < 200

    def test_short_names_are_the_headers_tenants(self) -> None:
        headers = {"x-tailorbird-tenant": "globex"}
        found = chat(LOCAL_CALLER, headers, model="support").request
        assert str(found.adapter) == "tenants/globex/adapters/support"
        with pytest.raises(InvalidArgument, match="x-tailorbird-tenant"):
            chat(LOCAL_CALLER, model="demo-base")

    def test_a_gateways_choice_takes_the_models_place(self) -> None:
        headers = {"x-llm-d-model-name-rewrite": "tenants/acme/adapters/other"}
        asked = chat(headers=headers)
        assert str(asked.request.adapter) == "tenants/acme/adapters/other"
        assert asked.model == MODEL
        with pytest.raises(NotFound):
            chat(headers={"x-llm-d-model-name-rewrite": "tenants/globex/adapters/other"})
        asked = chat(model="no/model", headers=headers)
        assert str(asked.request.adapter) == "tenants/acme/adapters/other"

    @pytest.mark.parametrize(
        ("choice", "version"),
        [(MODEL, VERSION), ("support", VERSION), (f"{MODEL}-2", None), (f"{VERSION}-2",) * 2],
    )
    def test_a_pinned_version_stays_if_it_is_the_choices(
        self, choice: str, version: str | None
    ) -> None:
        request = chat(model=VERSION, headers={"x-llm-d-model-name-rewrite": choice}).request
        assert request.version == (None if version is None else VersionName.parse(version))


class TestDeadlines:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"x-stainless-read-timeout": "2.5"}, 2.5),
            ({"x-stainless-timeout": "600"}, 600),
            ({"x-stainless-read-timeout": "None", "x-stainless-timeout": "7"}, 7),
        ],
    )
    def test_a_client_says_how_long_it_waits(self, headers: dict[str, str], seconds: float) -> None:
        before = time.monotonic()
        deadline = chat(headers=headers).request.deadline
        assert deadline is not None
        assert before + seconds <= deadline <= time.monotonic() + seconds

    @pytest.mark.parametrize("said", ["", "x", "0", "-1", "nan", "inf", "1e9", "None"])
    def test_what_is_no_time_is_none(self, said: str) -> None:
        assert chat(headers={"x-stainless-read-timeout": said}).request.deadline is None


class TestSampling:
    def test_every_parameter(self) -> None:
        given: dict[str, Any] = {
            "temperature": 0.5,
            "top_p": 0.9,
            "n": 2,
            "seed": -(2**63),
            "presence_penalty": -1,
            "frequency_penalty": 1.5,
            "top_k": 5,
            "min_p": 0.1,
            "min_tokens": 2,
            "repetition_penalty": 1.1,
            "ignore_eos": True,
        }
        asked = chat(
            **given,
            stop="x",
            logit_bias={"7": -100},
            logprobs=True,
            top_logprobs=3,
            max_completion_tokens=9,
            routing_key="k",
            priority=3,
            min_route_generation=2,
        )
        found = asked.request.sampling
        assert {name: getattr(found, name) for name in given} == given
        assert (found.stop, found.logit_bias) == (("x",), {7: -100.0})
        assert (found.logprobs, found.max_tokens) == (3, 9)
        request = asked.request
        assert (request.routing_key, request.priority) == ("k", 3)
        assert request.min_route_generation == 2

    def test_defaults(self) -> None:
        found = chat().request
        assert (found.sampling.temperature, found.sampling.max_tokens) == (1.0, None)
        assert found.sampling.logprobs is None
        assert found.final_only
        assert complete().request.sampling.max_tokens == 16
        assert chat(logprobs=True).request.sampling.logprobs == 0
        assert complete(logprobs=5).request.sampling.logprobs == 5
        assert chat(stop=["a", "b"]).request.sampling.stop == ("a", "b")

    def test_a_stream_and_its_usage(self) -> None:
        asked = chat(stream=True, stream_options={"include_usage": True})
        assert (asked.stream, asked.with_usage) == (True, True)
        assert not asked.request.final_only

    @pytest.mark.parametrize(
        ("fields", "structure"),
        [
            ({"response_format": {"type": "text"}}, None),
            (
                {"structured_outputs": {"json": '{"type": "object"}'}},
                Structure("json_schema", '{"type": "object"}'),
            ),
            (
                {"response_format": {"type": "json_object"}},
                Structure("json_schema", '{"type":"object"}'),
            ),
            (
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "n", "strict": True, "schema": {"type": "array"}},
                    }
                },
                Structure("json_schema", '{"type":"array"}'),
            ),
            (
                {"structured_outputs": {"json": {"type": "null"}}},
                Structure("json_schema", '{"type":"null"}'),
            ),
            ({"structured_outputs": {"regex": "a+"}}, Structure("regex", "a+")),
            ({"structured_outputs": {"grammar": "g"}}, Structure("grammar", "g")),
            (
                {"structured_outputs": {"choice": ["a", "b"]}},
                Structure("choices", choices=("a", "b")),
            ),
        ],
    )
    def test_structures(self, fields: dict[str, Any], structure: Structure | None) -> None:
        assert chat(**fields).request.sampling.structure == structure


class TestChats:
    def test_every_role(self) -> None:
        call: dict[str, Any] = {"id": "c1", "type": "function"}
        call |= {"function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
        asked = chat(
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]},
                {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
                {"role": "tool", "tool_call_id": "c1", "content": "warm", "name": "weather"},
            ],
            tools=[WEATHER],
        )
        found = asked.request.input
        assert isinstance(found, Chat)
        assert [one.role for one in found.messages] == ["system", "user", "assistant", "tool"]
        assert found.messages[1].content == "a\nb"
        assert found.messages[2].tool_calls[0].arguments_json == '{"city":"Rome"}'
        assert found.messages[3].tool_call_id == "c1"
        assert found.tools[0].name == "weather"
        assert json.loads(found.tools[0].parameters_json_schema)["type"] == "object"

    def test_tools_that_may_not_be_called_are_not_told(self) -> None:
        found = chat(tools=[WEATHER], tool_choice="none").request
        assert isinstance(found.input, Chat)
        assert found.input.tools == ()

    def test_a_named_tool_must_be_called(self) -> None:
        strict = {"type": "function", "function": WEATHER["function"] | {"strict": True}}
        asked = chat(
            tools=[strict],
            tool_choice={"type": "function", "function": {"name": "weather"}},
            parallel_tool_calls=False,
        )
        structure = asked.request.sampling.structure
        assert structure is not None
        assert json.loads(structure.value) == WEATHER["function"]["parameters"]
        (call,) = asked.choice.calls('{"city":"Rome"}')
        assert (call.name, call.arguments_json) == ("weather", '{"city":"Rome"}')

    def test_any_tool_must_be_called(self) -> None:
        with_defs: dict[str, Any] = {
            "name": "find",
            "parameters": {"$defs": {"a": {}}, "$ref": "#/$defs/a"},
        }
        asked = chat(
            tools=[WEATHER, {"type": "function", "function": with_defs}],
            tool_choice="required",
            parallel_tool_calls=False,
        )
        structure = asked.request.sampling.structure
        assert structure is not None
        schema = json.loads(structure.value)
        assert (schema["minItems"], schema["maxItems"], schema["$defs"]) == (1, 1, {"a": {}})
        first, second = schema["items"]["anyOf"]
        assert first["properties"]["name"] == {"enum": ["weather"]}
        assert second["properties"]["parameters"] == {"$ref": "#/$defs/a"}
        text = '[{"name":"find","parameters":{"b":1}},{"name":"weather","parameters":{}}]'
        calls = asked.choice.calls(text)
        assert [(call.name, call.arguments_json) for call in calls] == [
            ("find", '{"b":1}'),
            ("weather", "{}"),
        ]
        assert calls[0].id != calls[1].id
        assert asked.choice.calls(text[:-5]) == []

    @pytest.mark.parametrize(
        "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
    )
    def test_a_forced_call_comes_whole_and_is_not_read_by_the_bases_parser(
        self, choice: object
    ) -> None:
        forced = chat(tools=[WEATHER], tool_choice=choice, stream=True).request
        assert (forced.final_only, forced.read_calls) == (True, False)
        free = chat(tools=[WEATHER], stream=True).request
        assert (free.final_only, free.read_calls) == (False, True)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", Text("a")),
        (["a"], Text("a")),
        ([5, 6], TokenIds((5, 6))),
        ([[5, 6]], TokenIds((5, 6))),
    ],
)
def test_prompts(prompt: Any, expected: object) -> None:
    assert complete(prompt=prompt).request.input == expected

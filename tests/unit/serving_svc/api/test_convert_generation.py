from __future__ import annotations

from typing import Any

import pytest

from serving_svc.api.convert_generation import generation_request
from serving_svc.generation.model import (
    Chat,
    Message,
    Sampling,
    Structure,
    Text,
    TokenIds,
    Tool,
    ToolCall,
    room_for_answer,
)
from tailorbird.errors import InvalidArgument
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.serving.v1 import inference_service_pb2 as pb

ADAPTER = AdapterName("acme", "support")
VERSION = VersionName("acme", "support", "20260101T000001-job-1")
OTHER = "tenants/globex/adapters/notes"
REWRITE = "x-llm-d-model-name-rewrite"
USER = pb.Message(role=pb.ROLE_USER, content="Hi")
ASSISTANT = pb.Message(role=pb.ROLE_ASSISTANT, content="Hello")
CALL = pb.ToolCall(id="c1", name="weather", arguments_json='{"city": "Bonn"}')
CALLING = pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[CALL])
RESULT = pb.Message(role=pb.ROLE_TOOL, content="rain", tool_call_id="c1")
SOUND: dict[str, Any] = {"adapter": str(ADAPTER), "prompt": "Hi"}


def read(
    metadata: tuple[tuple[str, str | bytes], ...] = (), only: bool = False, **changes: Any
) -> Any:
    given = changes if only else SOUND | changes
    request = pb.GenerateRequest(**{k: v for k, v in given.items() if v is not None})
    return generation_request(request, 100, metadata)


def chat(*messages: pb.Message, tools: Any = ()) -> Any:
    return {"prompt": None, "chat": pb.Chat(messages=messages, tools=tools)}


def sampling(**parameters: Any) -> Any:
    return {"sampling": pb.SamplingParameters(**parameters)}


def tool(name: str = "weather", **more: str) -> Any:
    return chat(USER, tools=[pb.Tool(name=name, **more)])


def calling(**more: Any) -> Any:
    call = pb.ToolCall(**({"id": "c1", "name": "weather", "arguments_json": "{}"} | more))
    return chat(pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call]), USER)


def choices(*given: str) -> Any:
    return sampling(choices=pb.Choices(choices=given))


def test_a_sound_request_is_read() -> None:
    parameters = pb.SamplingParameters(temperature=0, top_k=3, max_tokens=5, seed=-1, stop=["x"])
    found = read(version=VERSION.version, sampling=parameters)
    assert (found.tenant, found.adapter, found.version) == (TenantName("acme"), ADAPTER, VERSION)
    assert found.input == Text("Hi")
    assert found.sampling == Sampling(temperature=0, top_k=3, max_tokens=5, seed=-1, stop=("x",))
    assert read().sampling == Sampling()
    assert read(prompt=None, token_ids=pb.TokenIds(ids=[0, 99])).input == TokenIds((0, 99))
    messages = read(**chat(ASSISTANT, USER)).input
    assert messages == Chat((Message("assistant", "Hello"), Message("user", "Hi")))
    assert read(adapter=None, parent="tenants/acme").adapter is None


def test_everything_that_can_be_asked_is_read() -> None:
    found = read(
        routing_key="k" * 256,
        min_route_generation=7,
        priority=-100,
        **sampling(
            min_p=0.1,
            min_tokens=5,
            max_tokens=5,
            ignore_eos=True,
            presence_penalty=-2,
            frequency_penalty=2,
            repetition_penalty=1.5,
            logit_bias={99: -100, 0: 100},
            logprobs=20,
            n=16,
            return_token_ids=True,
            regex="a+",
        ),
    )
    assert (found.routing_key, found.min_route_generation, found.priority) == ("k" * 256, 7, -100)
    assert found.sampling == Sampling(
        min_p=0.1,
        min_tokens=5,
        max_tokens=5,
        ignore_eos=True,
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.5,
        logit_bias={99: -100, 0: 100},
        logprobs=20,
        n=16,
        return_token_ids=True,
        structure=Structure("regex", "a+"),
    )
    assert read(**sampling(json_schema="{}")).sampling.structure == Structure("json_schema", "{}")
    assert read(**sampling(grammar="x")).sampling.structure == Structure("grammar", "x")
    expected = Structure("choices", choices=("a", "b"))
    assert read(**choices("a", "b")).sampling.structure == expected


def test_tools_and_their_calls_are_read() -> None:
    tools = [pb.Tool(name="weather", description="d", parameters_json_schema='{"type": "object"}')]
    found = read(**chat(USER, CALLING, RESULT, tools=tools)).input
    assert found == Chat(
        (
            Message("user", "Hi"),
            Message("assistant", "", (ToolCall("c1", "weather", '{"city": "Bonn"}'),)),
            Message("tool", "rain", (), "c1"),
        ),
        (Tool("weather", "d", '{"type": "object"}'),),
    )


DEEP = '{"a":' * 64 + "1" + "}" * 64
DEEPEST = '{"a":' * 65 + "1" + "}" * 65
ENDLESS = '{"a":' + "[" * 100_000


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"adapter": None}, "adapter", "neither"),
        ({"adapter": "tenants/acme/adapters/../x"}, "adapter", "../x"),
        ({"adapter": "tenants/acme/adapters/süß"}, "adapter", "süß"),
        ({"adapter": None, "parent": "acme"}, "parent", "acme"),
        ({"version": "../../x"}, "version", "../../x"),
        (
            {"adapter": None, "parent": "tenants/acme", "version": VERSION.version},
            "version",
            "without an adapter",
        ),
        ({"prompt": None}, "chat", "none is set"),
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"routing_key": "k" * 257}, "routing_key", "257"),
        ({"min_route_generation": -1}, "min_route_generation", "-1"),
        (
            {"adapter": None, "parent": "tenants/acme", "min_route_generation": 3},
            "min_route_generation",
            "without an adapter",
        ),
        ({"priority": 101}, "priority", "101"),
        ({"priority": -101}, "priority", "-101"),
        (chat(), "chat.messages", "at least 1"),
        (chat(*[USER] * 4097), "chat.messages", "4097"),
        (chat(USER, ASSISTANT), "[1].role", "last"),
        (chat(pb.Message(content="x")), "[0].role", "0"),
        (chat(pb.Message(role=9)), "[0].role", "9"),  # type: ignore[arg-type]
        (chat(pb.Message(role=pb.ROLE_TOOL)), "[0].tool_call_id", "0 characters"),
        (
            chat(pb.Message(role=pb.ROLE_TOOL, tool_call_id="c" * 257)),
            "[0].tool_call_id",
            "257",
        ),
        (chat(pb.Message(role=pb.ROLE_USER, tool_call_id="c")), "[0].tool_call_id", "ROLE_TOOL"),
        (chat(pb.Message(role=pb.ROLE_USER, tool_calls=[CALL])), "[0].tool_calls", "ASSISTANT"),
        (
            chat(pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[CALL] * 129), USER),
            "[0].tool_calls",
            "129",
        ),
        (calling(id="c" * 257), "tool_calls[0].id", "257"),
        (calling(name=""), "tool_calls[0].name", "1 to 64"),
        (calling(arguments_json=""), "tool_calls[0].arguments_json", "not JSON"),
        (calling(arguments_json="[]"), "tool_calls[0].arguments_json", "a list"),
        (chat(USER, tools=[pb.Tool(name="a")] * 129), "chat.tools", "129"),
        (chat(USER, tools=[pb.Tool(name="a")] * 2), "tools[1].name", "another"),
        (tool("a b"), "tools[0].name", "'a b'"),
        (tool("ä"), "tools[0].name", "ä"),
        (tool("x" * 65), "tools[0].name", "1 to 64"),
        (tool(description="x" * 300_000), "chat.tools", "300000"),
        (tool(parameters_json_schema="{"), "parameters_json_schema", "not JSON"),
        (tool(parameters_json_schema="true"), "parameters_json_schema", "a bool"),
        (tool(parameters_json_schema="null"), "parameters_json_schema", "null"),
        (tool(parameters_json_schema='{"a": NaN}'), "parameters_json_schema", "NaN"),
        (tool(parameters_json_schema='{"a": %s}' % ("9" * 5000)), "json_schema", "not JSON"),
        (tool(parameters_json_schema=DEEPEST), "parameters_json_schema", "64 deep"),
        (tool(parameters_json_schema=ENDLESS), "parameters_json_schema", "64 deep"),
        ({"prompt": None, "token_ids": pb.TokenIds()}, "token_ids.ids", "at least 1"),
        ({"prompt": None, "token_ids": pb.TokenIds(ids=[5, 100])}, "ids[1]", "100"),
        ({"prompt": None, "token_ids": pb.TokenIds(ids=[-1])}, "ids[0]", "-1"),
        (sampling(temperature=2.1), "temperature", "2.1"),
        (sampling(temperature=-0.1), "temperature", "-0.1"),
        (sampling(temperature=float("nan")), "temperature", "nan"),
        (sampling(top_p=0), "top_p", "above 0"),
        (sampling(top_p=float("nan")), "top_p", "nan"),
        (sampling(top_k=0), "top_k", "at least 1"),
        (sampling(min_p=1.1), "min_p", "1.1"),
        (sampling(min_p=float("nan")), "min_p", "nan"),
        (sampling(presence_penalty=2.5), "presence_penalty", "2.5"),
        (sampling(frequency_penalty=float("nan")), "frequency_penalty", "nan"),
        (sampling(repetition_penalty=0), "repetition_penalty", "above 0"),
        (sampling(repetition_penalty=float("inf")), "repetition_penalty", "inf"),
        (sampling(logprobs=21), "logprobs", "21"),
        (sampling(logprobs=-1), "logprobs", "-1"),
        (sampling(n=0), "sampling.n", "1 to 16"),
        (sampling(n=1000), "sampling.n", "1000"),
        (sampling(n=2, temperature=0), "sampling.n", "the same"),
        (sampling(max_tokens=0), "max_tokens", "at least 1"),
        (sampling(min_tokens=-1), "min_tokens", "at least 0"),
        (sampling(min_tokens=6, max_tokens=5), "min_tokens", "max_tokens, 5"),
        (sampling(logit_bias={100: 1}), "logit_bias", "100"),
        (sampling(logit_bias={-1: 1}), "logit_bias", "-1"),
        (sampling(logit_bias={3: 101}), "logit_bias[3]", "101"),
        (sampling(logit_bias={3: float("nan")}), "logit_bias[3]", "nan"),
        (sampling(logit_bias=dict.fromkeys(range(301), 1)), "logit_bias", "301"),
        (sampling(stop=["x"] * 17), "stop", "17"),
        (sampling(stop=["x", ""]), "stop[1]", "0 characters"),
        (sampling(stop=["x" * 257]), "stop[0]", "257"),
        (sampling(regex=""), "regex", "0 bytes"),
        (sampling(json_schema="ü" * 33_000), "json_schema", "66000"),
        (choices(), "choices", "0 are given"),
        (choices(*map(str, range(1001))), "choices", "1001"),
        (choices("a", ""), "choices[1]", "0 characters"),
        (choices("a" * 1025), "choices[0]", "1025"),
        (choices("a", "b", "a"), "choices[2]", "[0]"),
        (choices(*(f"{i:01024}" for i in range(65))), "choices", "66560 bytes"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(**changes)
    assert field in caught.value.field
    assert told in caught.value.description


def test_the_largest_that_is_allowed_is_allowed() -> None:
    assert len(read(**chat(*[USER] * 4096)).input.messages) == 4096
    assert read(**tool(parameters_json_schema=DEEP)).input.tools[0].parameters_json_schema == DEEP
    structure = read(**choices(*(f"{i:01024}" for i in range(64)))).sampling.structure
    assert structure is not None
    assert len(structure.choices) == 64


@pytest.mark.parametrize("header", [REWRITE, "x-gateway-model-name-rewrite"])
def test_a_gateways_rewrite_replaces_the_model(header: str) -> None:
    found = read(((header, OTHER),))
    assert (found.tenant, str(found.adapter)) == (TenantName("globex"), OTHER)
    assert read(((header, ""),)).adapter == ADAPTER
    base = read(((header, "tenants/globex"),))
    assert (base.tenant, base.adapter) == (TenantName("globex"), None)
    with pytest.raises(InvalidArgument) as caught:
        read(((header, "gpt-4"),))
    assert (caught.value.field, caught.value.reason) == (header, "INVALID_NAME")


@pytest.mark.parametrize(
    ("name", "model"), [("adapter", "gpt-4"), ("adapter", "tenants/acme"), ("parent", str(ADAPTER))]
)
def test_a_rewrite_to_the_same_name_changes_nothing(name: str, model: str) -> None:
    """Our client sends the request's own model so: what is wrong with it is the field's."""
    target: dict[str, Any] = {"adapter": None, name: model}
    with pytest.raises(InvalidArgument) as caught:
        read(((REWRITE, model),), **target)
    assert caught.value.field == name
    assert read(((REWRITE, str(ADAPTER)),)).adapter == ADAPTER


def test_the_newer_rewrite_goes_first() -> None:
    found = read((("x-gateway-model-name-rewrite", str(ADAPTER)), (REWRITE, OTHER)))
    assert str(found.adapter) == OTHER


def test_a_pinned_version_stays_with_its_own_adapter_only() -> None:
    assert read(((REWRITE, str(ADAPTER)),), version=VERSION.version).version == VERSION
    assert read(((REWRITE, OTHER),), version=VERSION.version).version is None
    assert read(((REWRITE, "tenants/acme"),), version=VERSION.version).version is None


def test_the_hint_counts_only_where_no_model_is_named() -> None:
    hint: tuple[tuple[str, str | bytes], ...] = (("x-tailorbird-adapter", OTHER),)
    assert read(hint).adapter == ADAPTER
    assert read(hint, adapter=None, parent="tenants/acme").adapter is None
    assert str(read(hint, only=True, prompt="Hi").adapter) == OTHER
    pinned = read(hint, only=True, prompt="Hi", version=VERSION.version).version
    assert str(pinned) == f"{OTHER}/versions/{VERSION.version}"
    assert read((("x-tailorbird-adapter", "nonsense"), (REWRITE, ""))).adapter == ADAPTER
    binary: tuple[tuple[str, str | bytes], ...] = (("x-tailorbird-adapter", b"x"),)
    assert read(binary).adapter == ADAPTER


def test_a_prompt_and_its_answer_must_fit() -> None:
    assert room_for_answer(10, None, 16) == 6
    assert room_for_answer(10, 6, 16) == 6
    with pytest.raises(InvalidArgument) as long:
        room_for_answer(16, None, 16)
    assert (long.value.reason, long.value.metadata["limit"]) == ("PROMPT_TOO_LONG", "15")
    with pytest.raises(InvalidArgument) as much:
        room_for_answer(10, 7, 16)
    assert much.value.field == "sampling.max_tokens"
    with pytest.raises(InvalidArgument):
        room_for_answer(0, None, 16)


def test_too_many_token_ids_are_counted_and_not_looked_at() -> None:
    request = pb.GenerateRequest(adapter=str(ADAPTER), token_ids=pb.TokenIds(ids=[1, 2, -1]))
    with pytest.raises(InvalidArgument, match=r"3 tokens.*at most 2") as caught:
        generation_request(request, 100, max_prompt_tokens=2)
    assert caught.value.reason == "PROMPT_TOO_LONG"


def test_the_arguments_of_all_calls_together_are_bounded() -> None:
    arguments = '{"a": "' + "x" * 150_000 + '"}'
    call = pb.ToolCall(id="c1", name="weather", arguments_json=arguments)
    message = pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call])
    assert read(**chat(message, USER)).input.messages[0].tool_calls
    with pytest.raises(InvalidArgument, match=r"300018 characters; at most 262144"):
        read(**chat(message, message, USER))

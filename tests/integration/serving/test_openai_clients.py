"""OpenAI's own clients, for Python and for Node, against serving with a real engine."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest

from tailorbird.names import AdapterName
from tests.integration.serving.calls import ACME, GLOBEX, eventually
from tests.integration.serving.process import ServingProcess
from tests.integration.serving.world import CONTEXT, PROMPT, World
from tests.node import ROOT, node_modules

HELLO: Any = [{"role": "user", "content": "Hello"}]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CANCELLED = 'tailorbird_serving_requests_total{outcome="cancelled",tenant="acme"}'

GONE = 'tailorbird_http_handled_total{code="499",route="/v1/chat/completions"}'


def client_of(serving: ServingProcess, token: str, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=serving.openai_url, api_key=token, max_retries=0, **more)


@pytest.fixture
async def client(serving: ServingProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(serving, ACME) as client:
        yield client


@pytest.fixture
def base(world: World) -> str:
    return world.base.name


async def test_models_are_the_base_and_the_callers_adapters(
    serving: ServingProcess, world: World, client: openai.AsyncOpenAI, adapter: AdapterName
) -> None:
    version = await world.publish_routed(adapter)
    unrouted = AdapterName("acme", f"{adapter.adapter}-unrouted")
    await world.publish_copy(version, unrouted)
    found = {model.id: model for model in (await client.models.list()).data}
    assert next(iter(found)) == world.base.name
    assert str(adapter) in found
    assert str(unrouted) not in found
    assert all(name.startswith("tenants/acme/adapters/") for name in list(found)[1:])
    assert found[str(adapter)].owned_by == "tenants/acme"
    assert found[str(adapter)].created > 1_700_000_000
    for name in (world.base.name, str(adapter), adapter.adapter, str(version)):
        assert (await client.models.retrieve(name)).object == "model"
    async with client_of(serving, GLOBEX) as other:
        assert str(adapter) not in [model.id async for model in other.models.list()]
        for name in (str(adapter), adapter.adapter, str(version), str(unrouted)):
            with pytest.raises(openai.NotFoundError) as caught:
                await other.models.retrieve(name)
            assert caught.value.code == "model_not_found"


async def test_an_adapter_answers_as_peft_does(
    world: World, client: openai.AsyncOpenAI, adapter: AdapterName, base: str
) -> None:
    old = await world.publish_routed(adapter, seed=1)
    new = await world.publish_routed(adapter, seed=2)
    expected = {
        str(adapter): (world.answers[new], str(new), "2"),
        adapter.adapter: (world.answers[new], str(new), "2"),
        str(old): (world.answers[old], str(old), "0"),
        base: (world.base_answer, None, None),
    }
    for model, (text, version, generation) in expected.items():
        raw = await client.completions.with_raw_response.create(
            model=model, prompt=list(PROMPT), temperature=0, max_tokens=8
        )
        answer = raw.parse()
        assert (answer.choices[0].text, answer.model) == (text, model)
        assert raw.headers.get("x-tailorbird-version") == version
        assert raw.headers.get("x-tailorbird-route-generation") == generation
        assert answer.usage is not None
        assert answer.usage.total_tokens == len(PROMPT) + 8
        stream = await client.completions.create(
            model=model, prompt=list(PROMPT), temperature=0, max_tokens=8, stream=True
        )
        pieces = [piece async for piece in stream]
        assert "".join(piece.choices[0].text for piece in pieces) == text
        assert [piece.choices[0].finish_reason for piece in pieces[-2:]] == [None, "length"]


async def test_a_chats_parameters(client: openai.AsyncOpenAI, base: str) -> None:
    async def ask(**more: Any) -> Any:
        given = {"model": base, "messages": HELLO, "max_tokens": 8} | more
        return await client.chat.completions.create(**given)

    whole = (await ask(temperature=0)).choices[0]
    assert len(whole.message.content) == 8
    stop = whole.message.content[3:5]
    cut = (await ask(temperature=0, stop=stop)).choices[0]
    assert cut.message.content == whole.message.content[: whole.message.content.index(stop)]
    assert (whole.finish_reason, cut.finish_reason) == ("length", "stop")
    seeded = {(await ask(temperature=2, seed=5)).choices[0].message.content for _ in range(2)}
    assert len(seeded) == 1
    several = await ask(
        n=3, logprobs=True, top_logprobs=2, max_completion_tokens=4, max_tokens=None
    )
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.usage.completion_tokens == 12
    for choice in several.choices:
        entries = choice.logprobs.content
        assert "".join(entry.token for entry in entries) == choice.message.content
        assert [len(entry.top_logprobs) for entry in entries] == [2] * 4
    schema = {"name": "answer", "schema": {"enum": ["yes", "no"]}}
    told = await ask(response_format={"type": "json_schema", "json_schema": schema}, max_tokens=20)
    assert json.loads(told.choices[0].message.content) in ("yes", "no")
    chosen = await ask(extra_body={"structured_outputs": {"choice": ["red", "blue"]}})
    assert chosen.choices[0].message.content in ("red", "blue")


async def test_a_chats_stream_with_several_completions(
    client: openai.AsyncOpenAI, base: str
) -> None:
    stream = await client.chat.completions.create(
        model=base,
        messages=HELLO,
        n=2,
        seed=1,
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
    )
    *pieces, last = [piece async for piece in stream]
    for index in range(2):
        text = [piece.choices[0] for piece in pieces if piece.choices[0].index == index]
        assert text[0].delta.role == "assistant"
        assert len("".join(one.delta.content or "" for one in text)) <= 6
        assert text[-1].finish_reason is not None
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens <= 12


@pytest.mark.parametrize("stream", [False, True])
async def test_tools(client: openai.AsyncOpenAI, base: str, stream: bool) -> None:
    named: Any = {"type": "function", "function": {"name": "weather"}}
    choices: list[Any] = [named, "required"]
    for choice in choices:
        given: Any = {"model": base, "messages": HELLO, "tools": [WEATHER], "max_tokens": 300}
        given |= {"tool_choice": choice, "parallel_tool_calls": False}
        if stream:
            async with client.chat.completions.stream(**given) as events:
                answer: Any = await events.get_final_completion()
        else:
            answer = await client.chat.completions.create(**given)
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments) == {"city": "Rome"}
    free = await client.chat.completions.create(
        model=base, messages=HELLO, tools=[WEATHER], temperature=0, max_tokens=8
    )
    told = await client.chat.completions.create(
        model=base, messages=HELLO, tools=[WEATHER], tool_choice="none", max_tokens=8
    )
    assert free.usage is not None
    assert told.usage is not None
    # The template tells of a tool, unless it may not be called.
    assert free.usage.prompt_tokens - told.usage.prompt_tokens == len("weather") + 2


async def test_who_leaves_ends_its_generation(
    serving: ServingProcess, world: World, client: openai.AsyncOpenAI, adapter: AdapterName
) -> None:
    await world.publish_routed(adapter)
    before, gone_before = serving.metric(CANCELLED), serving.metric(GONE)
    long: Any = {"model": str(adapter), "messages": HELLO, "max_tokens": CONTEXT - 100}
    stream = await client.chat.completions.create(**long, temperature=0, stream=True)
    await anext(aiter(stream))
    assert serving.metric("tailorbird_serving_adapter_leases") == 1
    await stream.close()
    whole = asyncio.create_task(client.chat.completions.create(**long, temperature=0))
    await eventually(_is(serving, "tailorbird_serving_adapter_leases", 1))
    whole.cancel()
    await eventually(_is(serving, CANCELLED, before + 2))
    assert serving.metric("tailorbird_serving_adapter_leases") == 0
    await eventually(_is(serving, GONE, gone_before + 2))
    assert serving.metric(f'vllm:num_requests_running{{model_name="{world.base.name}"}}') == 0


def _is(serving: ServingProcess, metric: str, value: float) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return serving.metric(metric) == value

    return holds


async def test_refusals_are_the_clients_own_errors(
    serving: ServingProcess, client: openai.AsyncOpenAI, base: str
) -> None:
    async def ask(client: openai.AsyncOpenAI = client, **more: Any) -> Any:
        return await client.chat.completions.create(**{"model": base, "messages": HELLO} | more)

    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as bad:
            await ask(max_tokens=CONTEXT, stream=stream)
        assert (bad.value.code, bad.value.param) == ("context_length_exceeded", "max_tokens")
        for model in ("nothing", "tenants/globex/adapters/x", "tenants/acme/adapters/x", "GPT_4"):
            with pytest.raises(openai.NotFoundError, match="does not exist") as missing:
                await ask(model=model, stream=stream)
            assert missing.value.code == "model_not_found"
        schema = {"name": "x", "schema": {"type": "nothing"}}
        with pytest.raises(openai.BadRequestError) as bad:
            await ask(response_format={"type": "json_schema", "json_schema": schema}, stream=stream)
        assert bad.value.param == "response_format.json_schema.schema"
    with pytest.raises(openai.BadRequestError, match="temprature"):
        await ask(extra_body={"temprature": 1})
    with pytest.raises(openai.APIStatusError) as large:
        await ask(messages=[{"role": "user", "content": "x" * 100 * 2**20}])
    assert large.value.status_code == 413
    async with client_of(serving, "wrong") as nobody:
        with pytest.raises(openai.AuthenticationError):
            await ask(nobody)
    async with client_of(serving, ACME, default_headers={"x-tailorbird-tenant": "globex"}) as other:
        with pytest.raises(openai.NotFoundError):
            await ask(other)
    # Its project is OpenAI's, and nobody's here: a token of one tenant needs none.
    async with client_of(serving, ACME, project="proj_abc") as more:
        assert (await ask(more, max_tokens=1)).usage.completion_tokens == 1


async def test_the_node_client(
    serving: ServingProcess, world: World, client: openai.AsyncOpenAI, adapter: AdapterName
) -> None:
    version = await world.publish_routed(adapter, seed=4)
    before = serving.metric(CANCELLED)
    process = await asyncio.create_subprocess_exec(
        "node",
        str(ROOT / "tests" / "integration" / "serving" / "openai_client.js"),
        *(serving.openai_url, ACME, str(adapter)),
        env=os.environ | {"NODE_PATH": str(node_modules())},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0
    found = json.loads(output)
    answer = await client.chat.completions.create(
        model=str(adapter), messages=HELLO, temperature=0, max_tokens=8
    )
    assert found["answer"] == found["streamed"] == answer.choices[0].message.content
    assert found["version"] == str(version)
    assert found["usage"] == found["streamedUsage"]
    assert found["usage"]["completion_tokens"] == 8
    assert str(adapter) in found["models"]
    assert found["model"] == str(adapter)
    assert "".join(found["tokens"]) == found["completion"]
    assert found["call"] == ["weather", {"city": "Rome"}, "tool_calls"]
    assert found["unknown"] == {"status": 404, "code": "model_not_found", "param": None}
    assert found["field"] == {"status": 400, "code": "unknown_field", "param": "temprature"}
    assert found["token"]["status"] == 401
    await eventually(_is(serving, CANCELLED, before + 1))

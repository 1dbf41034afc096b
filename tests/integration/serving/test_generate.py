"""Generate and StreamGenerate with the base and with adapters, and what ends them early."""

from __future__ import annotations

import grpc
import grpc.aio

from tailorbird.names import AdapterName
from tailorbird.profile import read_profile
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.integration.serving.calls import (
    GREEDY,
    LONG,
    PROMPT,
    SLOTS,
    ask,
    eventually,
)
from tests.integration.serving.process import Client, ServingProcess, refusal
from tests.integration.serving.world import (
    CONTEXT,
    VOCABULARY,
    World,
)


async def test_ready_with_a_profile(serving: ServingProcess, world: World, client: Client) -> None:
    assert serving.http("/readyz") == "ok\n"
    info = await client.inference.GetServerInfo(pb.GetServerInfoRequest(), metadata=client.metadata)
    profile = await read_profile(world.registry.store, "default")
    assert profile is not None
    assert {name: getattr(info, name) for name in profile.model_dump()} == profile.model_dump()
    assert (info.max_model_len, info.adapter_slots, info.dtype) == (CONTEXT, SLOTS, "float32")
    assert info.base_model_digest == world.base.digest


async def test_the_base_answers_every_kind_of_input(client: Client) -> None:
    chat = pb.Chat(messages=[pb.Message(role=pb.ROLE_USER, content="Hello")])
    for given in ({"chat": chat}, {"prompt": "Hello"}, {"token_ids": PROMPT}):
        request = pb.GenerateRequest(parent="tenants/acme", sampling=GREEDY, **given)
        answer = await client.generate(request)
        assert len(answer.text) == answer.usage.completion_tokens == 8
        assert answer.finish_reason == pb.FINISH_REASON_LENGTH
        assert (answer.version, answer.route_generation) == ("", 0)
        # <|user|> Hello <|end|> <|assistant|>
        expected = {"chat": 8, "prompt": 5, "token_ids": len(PROMPT.ids)}
        assert answer.usage.prompt_tokens == expected[next(iter(given))]


async def test_stop_strings_and_seeds(client: Client) -> None:
    whole = await client.generate(ask("tenants/acme"))
    stop = whole.text[3:5]
    sampling = pb.SamplingParameters(temperature=0, max_tokens=8, stop=[stop])
    cut = await client.generate(ask("tenants/acme", sampling=sampling))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == pb.FINISH_REASON_STOP
    seeded = pb.SamplingParameters(temperature=2, max_tokens=8, seed=-1)
    texts = {(await client.generate(ask("tenants/acme", sampling=seeded))).text for _ in range(2)}
    assert len(texts) == 1


async def test_an_adapter_answers_as_peft_does(
    world: World, client: Client, adapter: AdapterName
) -> None:
    old = await world.publish_routed(adapter, seed=1)
    new = await world.publish_routed(adapter, seed=2)
    routed = await client.generate(ask(adapter))
    assert (routed.version, routed.route_generation) == (str(new), 2)
    assert routed.text == world.answers[new]
    pinned = await client.generate(ask(old))
    assert (pinned.version, pinned.route_generation) == (str(old), 0)
    assert pinned.text == world.answers[old] != world.answers[new]
    base = await client.generate(ask("tenants/acme"))
    assert base.text == world.base_answer


async def test_a_stream_is_the_answer_in_pieces(
    world: World, client: Client, adapter: AdapterName
) -> None:
    version = await world.publish_routed(adapter, seed=3)
    pieces = [piece async for piece in client.stream(ask(adapter))]
    assert "".join(piece.text for piece in pieces) == world.answers[version]
    assert (pieces[0].version, pieces[0].route_generation) == (str(version), 1)
    assert not any(piece.version for piece in pieces[1:])
    assert [bool(piece.finish_reason) for piece in pieces[-2:]] == [False, True]
    assert pieces[-1].usage == pb.Usage(prompt_tokens=len(PROMPT.ids), completion_tokens=8)


async def test_what_does_not_fit_the_context_is_refused_with_its_numbers(client: Client) -> None:
    long = pb.TokenIds(ids=[7] * CONTEXT)
    code, reason, text = await refusal(client.generate(ask("tenants/acme", token_ids=long)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")
    assert f"{CONTEXT} tokens" in text
    assert str(CONTEXT - 1) in text
    sampling = pb.SamplingParameters(max_tokens=CONTEXT)
    code, reason, text = await refusal(client.generate(ask("tenants/acme", sampling=sampling)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MAX_TOKENS_TOO_LARGE")
    assert "sampling.max_tokens" in text
    outside = pb.TokenIds(ids=[VOCABULARY])
    code, _, text = await refusal(client.generate(ask("tenants/acme", token_ids=outside)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "token_ids.ids[0]" in text


async def test_a_cancelled_stream_gives_its_lease_back(
    serving: ServingProcess, world: World, client: Client, adapter: AdapterName
) -> None:
    await world.publish_routed(adapter)
    cancelled = 'tailorbird_serving_requests_total{outcome="cancelled",tenant="acme"}'
    before = serving.metric(cancelled)
    stream = client.stream(ask(adapter, sampling=LONG))
    await anext(aiter(stream))
    assert serving.metric("tailorbird_serving_adapter_leases") == 1
    stream.cancel()
    late = client.inference.Generate(
        ask(adapter, sampling=LONG), metadata=client.metadata, timeout=0.1
    )
    code, _, _ = await refusal(late)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED

    async def ended() -> bool:
        return serving.metric(cancelled) == before + 2

    await eventually(ended)
    assert serving.metric("tailorbird_serving_adapter_leases") == 0

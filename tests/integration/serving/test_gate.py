"""Versions that must not be served, and what answers in their place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import torch

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.manifest import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES
from tailorbird.names import AdapterName, VersionName
from tests.integration.serving.calls import (
    ask,
    promote,
)
from tests.integration.serving.process import Client, refusal
from tests.integration.serving.world import (
    VOCABULARY,
    World,
    change_config,
    change_weights,
)


def nan(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values()))[0, 0] = float("nan")


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "q_proj.lora_A" in name)
    tensors[name] = tensors[name][:, :32].contiguous()


def unknown_layer(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if "layers.1" in name]:
        tensors[name.replace("layers.1", "layers.2")] = tensors.pop(name)


def silent(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


def other(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        tensors[name].mul_(-1.5)


def fill(value: float) -> Callable[[Path], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.fill_(value)

    return change_weights(change)


def without_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("base_model.model.")] = tensors.pop(name)


def halved(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if "lora_B" in name)]


def in_float64(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        tensors[name] = tensors[name].double()


def with_tensor(name: str, *shape: int) -> Callable[[Path], None]:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"base_model.model.{name}"] = torch.zeros(shape)

    return change_weights(add)


def with_header(make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return a spoiler that puts another header before the same numbers."""

    def corrupt(folder: Path) -> None:
        path = folder / ADAPTER_WEIGHTS
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = make(data[8:end])
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])

    return corrupt


def with_config(data: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / ADAPTER_CONFIG).write_bytes(data)

    return spoil


def scaled_by(alpha: float) -> dict[str, Any]:
    return {"spoil": change_config(lora_alpha=alpha), "manifest_changes": {"alpha": alpha}}


def change_probes(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        probes = json.loads((folder / PROBES).read_text())
        change(probes)
        (folder / PROBES).write_text(json.dumps(probes))

    return spoil


def foreign(probes: dict[str, Any]) -> None:
    probes["sequences"][0]["token_ids"][3] = VOCABULARY


def rendered_otherwise(probes: dict[str, Any]) -> None:
    probes["chats"][0]["token_ids"][2] += 1


def too_many_chats(probes: dict[str, Any]) -> None:
    probes["chats"] *= 5


def deep_schema(probes: dict[str, Any]) -> None:
    schema = '{"a":' * 10_000 + "{}" + "}" * 10_000
    probes["chats"][0]["tools"] = [{"name": "look", "parameters_json_schema": schema}]


def doubled(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name] *= 2


def layers_swapped(tensors: dict[str, torch.Tensor]) -> None:
    held = dict(tensors)
    for name in held:
        other = name.replace("layers.0", "layers.@").replace("layers.1", "layers.0")
        tensors[other.replace("layers.@", "layers.1")] = held[name]


def one_module_lost(tensors: dict[str, torch.Tensor]) -> None:
    tensors[next(name for name in tensors if "q_proj.lora_B" in name)].zero_()


def b_of_another(tensors: dict[str, torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(77)
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = torch.randn(tensors[name].shape, generator=generator) / 2


SPOILED: dict[str, tuple[str, dict[str, Any]]] = {
    "NaN": ("NOT_FINITE", {"spoil": change_weights(nan)}),
    "another hidden size": ("TENSOR_MISMATCH", {"spoil": change_weights(narrow)}),
    "a layer too many": ("TENSOR_MISMATCH", {"spoil": change_weights(unknown_layer)}),
    "no effect": ("EFFECT_ABSENT", {"spoil": change_weights(silent)}),
    "other weights": ("PROBE_MISMATCH", {"spoil": change_weights(other)}),
    "DoRA": ("CONFIG_UNSUPPORTED", {"spoil": change_config(use_dora=True)}),
    "another rank": ("CONFIG_UNSUPPORTED", {"spoil": change_config(r=16)}),
    "twice its weights": ("PROBE_MISMATCH", {"spoil": change_weights(doubled)}),
    "half as much again of alpha": ("PROBE_MISMATCH", scaled_by(24.0)),
    "layers that are swapped": ("PROBE_MISMATCH", {"spoil": change_weights(layers_swapped)}),
    "one module of six lost": ("PROBE_MISMATCH", {"spoil": change_weights(one_module_lost)}),
    "B of another version": ("PROBE_MISMATCH", {"spoil": change_weights(b_of_another)}),
    "a foreign probe": ("PROBES_INVALID", {"spoil": change_probes(foreign)}),
    "a chat rendered otherwise": (
        "RENDERING_MISMATCH",
        {"spoil": change_probes(rendered_otherwise)},
    ),
    "five chats": ("PROBES_INVALID", {"spoil": change_probes(too_many_chats)}),
    "a deep schema": ("PROBES_INVALID", {"spoil": change_probes(deep_schema)}),
    "another base": (
        "BASE_MISMATCH",
        {"manifest_changes": {"base_model_digest": f"sha256:{'0' * 64}"}},
    ),
    "another template": (
        "TEMPLATE_MISMATCH",
        {"manifest_changes": {"chat_template_digest": f"sha256:{'0' * 64}"}},
    ),
    "rank 128": ("RANK_TOO_HIGH", {"manifest_changes": {"rank": 128}}),
    "alpha 1e300": ("NOT_FINITE", scaled_by(1e300)),
    "alpha 1e38": ("NOT_FINITE", scaled_by(1e38)),
    "alpha 0": ("CONFIG_UNSUPPORTED", scaled_by(0.0)),
    # Finite weights that overflow in the forward pass: the NaN they leave in the KV cache would be
    # the next request's, whoever sends it.
    "float32's largest number": ("NOT_FINITE", {"spoil": fill(torch.finfo(torch.float32).max)}),
    "an overflow in the forward pass": ("NOT_FINITE", {"spoil": fill(1e15)}),
    "float64": ("TENSOR_MISMATCH", {"spoil": change_weights(in_float64)}),
    "no prefix": ("TENSOR_MISMATCH", {"spoil": change_weights(without_prefix)}),
    "half a pair": ("TENSOR_MISMATCH", {"spoil": change_weights(halved)}),
    "the head": ("TENSOR_MISMATCH", {"spoil": with_tensor("lm_head.lora_A.weight", 8, 64)}),
    "an embedding": (
        "TENSOR_MISMATCH",
        {"spoil": with_tensor("model.embed_tokens.lora_embedding_A", 8, VOCABULARY)},
    ),
    "a magnitude": (
        "TENSOR_MISMATCH",
        {"spoil": with_tensor("model.layers.0.self_attn.q_proj.lora_magnitude_vector", 64)},
    ),
    "a bias": (
        "TENSOR_MISMATCH",
        {"spoil": with_tensor("model.layers.0.self_attn.q_proj.lora_B.bias", 64)},
    ),
    "a deep header": (
        "TENSOR_MISMATCH",
        {"corrupt": with_header(lambda _: b'{"__metadata__":' + b"[" * 50_000)},
    ),
    "1e999 in the header": (
        "TENSOR_MISMATCH",
        {"corrupt": with_header(lambda header: header.replace(b'"shape":[8', b'"shape":[1e999'))},
    ),
    # Long before it could be parsed: no tensor of the manifest needs it.
    "a header of 100 MiB": (
        "MANIFEST_INVALID",
        {"corrupt": with_header(lambda header: header + b" " * 100 * 2**20)},
    ),
    "a deep config": ("CONFIG_UNSUPPORTED", {"spoil": with_config(b"[" * 100_000)}),
    "saved modules": ("CONFIG_UNSUPPORTED", {"spoil": change_config(modules_to_save=["lm_head"])}),
    "PiSSA": ("CONFIG_UNSUPPORTED", {"spoil": change_config(init_lora_weights="pissa")}),
    "a rank pattern": ("CONFIG_UNSUPPORTED", {"spoil": change_config(rank_pattern={"q_proj": 4})}),
    "a rank that is true": ("CONFIG_UNSUPPORTED", {"spoil": change_config(r=True)}),
    "an option of tomorrow": ("CONFIG_UNSUPPORTED", {"spoil": change_config(use_tomorrow=True)}),
}


@pytest.mark.parametrize(("reason", "options"), SPOILED.values(), ids=SPOILED.keys())
async def test_a_spoiled_version_is_refused_and_others_go_on(
    world: World, client: Client, adapter: AdapterName, reason: str, options: dict[str, Any]
) -> None:
    good = await world.publish_routed(adapter, seed=8)
    bad = await world.publish(adapter, seed=9, **options)
    for call in (client.generate(ask(bad)), promote(client, bad)):
        code, told, _ = await refusal(call)
        assert (code, told) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    answer = await client.generate(ask(adapter))
    assert (answer.version, answer.text) == (str(good), world.answers[good])


async def test_a_version_without_chats_is_served(
    world: World, client: Client, adapter: AdapterName
) -> None:
    """As earlier releases publish, and who trains on plain text, and imports."""
    without = change_probes(lambda told: told.pop("chats"))
    version = await world.publish_routed(adapter, spoil=without)
    answer = await client.generate(ask(adapter))
    assert (answer.version, answer.text) == (str(version), world.answers[version])


async def replace(world: World, version: VersionName, change: Callable[[bytes], bytes]) -> None:
    key = f"{version}/{ADAPTER_WEIGHTS}"
    await world.registry.store.put(key, change(await world.registry.store.get(key)))


@pytest.mark.parametrize(
    "change",
    [lambda data: data[:-4] + b"\0\0\0\1", lambda data: data[:-4], lambda _: b""],
    ids=["changed", "cut", "empty"],
)
async def test_a_route_to_corrupt_bytes_leaves_the_older_version_in_effect(
    world: World, client: Client, adapter: AdapterName, change: Callable[[bytes], bytes]
) -> None:
    good = await world.publish_routed(adapter, seed=8)
    bad = await world.publish_routed(
        adapter, seed=9, after=lambda version: replace(world, version, change)
    )
    answer = await client.generate(ask(adapter))
    assert (answer.version, answer.route_generation) == (str(good), 1)
    request = adapters_pb.GetAdapterRequest(name=str(adapter))
    found = (await client.adapters.GetAdapter(request, metadata=client.metadata)).adapter
    assert (found.route.generation, found.route.version) == (2, str(bad))
    assert found.effective_generation == 1
    assert [(r.version, r.reason) for r in found.refusals] == [(str(bad), "DIGEST_MISMATCH")]


async def test_when_every_version_is_refused_the_base_does_not_answer(
    world: World, client: Client, adapter: AdapterName
) -> None:
    await world.publish_routed(adapter, spoil=change_weights(nan))
    code, reason, _ = await refusal(client.generate(ask(adapter)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_FINITE")

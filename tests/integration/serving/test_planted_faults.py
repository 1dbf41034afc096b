"""Faults planted into what the real trainer has published, before the real vLLM and its gate.

Of the demo base, whose query, key and value layers have one shape: names that are swapped fit.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from safetensors.torch import load_file, save_file

from tailorbird.manifest import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES, Probes, file_entry
from tailorbird.names import VersionName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tests.integration.engine_process import WorkerProcess
from tests.integration.serving.calls import ask
from tests.integration.serving.process import Client, ServingProcess, refusal
from tests.unit.trainer_svc.engine.tiny import assignment, chats, dataset_ref, jsonl
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.protocol import Start, Trained, Upload, Uploaded

BASE = Path(__file__).parents[3] / "examples" / "demo_base"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Answer in one line."},
            {"role": "user", "content": "Où est ma commande ? 訂單在哪裡？"},
            {"role": "assistant", "content": "It is on its way."},
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": "Still."},
        ]
    },
    *chats(60),
]
TEXTS = [{"text": f"The order {number} is on its way."} for number in range(60)]
PAIRS = [
    {"prompt": f"Order {number}?", "completion": f" {number} is on its way"} for number in range(60)
]
KINDS: dict[str, Any] = {"chat": CHATS, "text": TEXTS, "prompt_completion": PAIRS}

Tensors = dict[str, torch.Tensor]


def train(store: Path, scratch: Path) -> dict[str, VersionName]:
    """Train on each kind of data, and publish a version of each, by kind."""
    registry = AdapterRegistry(open_store(store.as_uri()))
    versions = {}
    with WorkerProcess(BASE, store, scratch) as worker:
        worker.ready()
        for kind, records in KINDS.items():
            data = jsonl(records)
            job = kind.replace("_", "-")
            ref = dataset_ref(data, job, kind)
            (store / ref.key).parent.mkdir(parents=True)
            (store / ref.key).write_bytes(data)
            start = assignment(
                data,
                job,
                training=ref,
                adapter=f"tenants/acme/adapters/{job}",
                hyperparameters=Hyperparameters(epochs=3, batch_tokens=256),
            )
            worker.send(Start(assignment=start))
            worker.until(Trained)
            worker.send(Upload(lease=start.lease, version=f"20261120T150000-{job}-1"))
            manifest = worker.until(Uploaded)[1].manifest
            versions[kind] = VersionName.parse(manifest.version)
            asyncio.run(registry.publish(versions[kind], manifest))
    return versions


async def spoiled(
    store: Path, sound: VersionName, name: str, change: Callable[[Path], dict[str, Any]]
) -> VersionName:
    """Publish `sound` again as another version, changed."""
    version = sound.adapter_name.version(f"20261120T160000-{name}-1")
    registry = AdapterRegistry(open_store(store.as_uri()))
    manifest = await registry.manifest(sound)
    folder = store / str(version)
    folder.mkdir(parents=True)
    for file in manifest.files:
        (folder / file).write_bytes((store / str(sound) / file).read_bytes())
    told = await asyncio.to_thread(change, folder)
    files = {file: file_entry(folder / file) for file in manifest.files}
    await registry.publish(
        version, manifest.model_copy(update={"version": str(version), "files": files, **told})
    )
    return version


def with_weights(make: Callable[[Tensors], Tensors]) -> Callable[[Path], dict[str, Any]]:
    def change(folder: Path) -> dict[str, Any]:
        path = folder / ADAPTER_WEIGHTS
        made = {name: each.contiguous() for name, each in make(load_file(path)).items()}
        save_file(made, path)
        return {}

    return change


def swapped(one: str, other: str) -> Callable[[Path], dict[str, Any]]:
    def swap(tensors: Tensors) -> Tensors:
        names = {name: name.replace(one, "@").replace(other, one) for name in tensors}
        return {names[name].replace("@", other): each for name, each in tensors.items()}

    return with_weights(swap)


def without(part: str) -> Callable[[Path], dict[str, Any]]:
    return with_weights(
        lambda tensors: {
            name: each * 0 if part in name and "lora_B" in name else each
            for name, each in tensors.items()
        }
    )


def alpha(factor: float) -> Callable[[Path], dict[str, Any]]:
    def change(folder: Path) -> dict[str, Any]:
        config = json.loads((folder / ADAPTER_CONFIG).read_text())
        config["lora_alpha"] *= factor
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config))
        return {"alpha": config["lora_alpha"]}

    return change


def other_ids(folder: Path) -> dict[str, Any]:
    probes = Probes.from_json((folder / PROBES).read_bytes())
    chat = probes.chats[1]
    changed = chat.model_copy(update={"token_ids": (*chat.token_ids[:5], *chat.token_ids[6:])})
    updated = probes.model_copy(update={"chats": (probes.chats[0], changed)})
    (folder / PROBES).write_bytes(updated.to_json())
    return {}


FAULTS = {
    "no-weights": (without("lora"), "EFFECT_ABSENT"),
    "a-layer-lost": (without("layers.2."), "PROBE_MISMATCH"),
    "values-lost": (without("v_proj"), "PROBE_MISMATCH"),
    "queries-for-values": (swapped("q_proj", "v_proj"), "PROBE_MISMATCH"),
    "layers-swapped": (swapped("layers.0.", "layers.1."), "PROBE_MISMATCH"),
    "alpha-twice": (alpha(2.0), "PROBE_MISMATCH"),
    "alpha-half-more": (alpha(1.5), "PROBE_MISMATCH"),
    "alpha-half": (alpha(0.5), "PROBE_MISMATCH"),
    "other-ids": (other_ids, "RENDERING_MISMATCH"),
    "other-base": (lambda _: {"base_model_digest": f"sha256:{'0' * 64}"}, "BASE_MISMATCH"),
    "other-template": (
        lambda _: {"chat_template_digest": f"sha256:{'0' * 64}"},
        "TEMPLATE_MISMATCH",
    ),
}


@pytest.fixture
async def client(tmp_path: Path) -> Any:
    serving = ServingProcess(
        {"TAILORBIRD_BASE_MODEL": str(BASE), "TAILORBIRD_DATA_DIR": str(tmp_path / "data")},
        tmp_path / "serving.log",
    )
    try:
        await asyncio.to_thread(serving.wait_until_serving)
        async with Client(serving.target, "none") as made:
            yield made
    finally:
        serving.close()


async def test_honest_versions_pass_and_each_fault_has_its_reason(
    tmp_path: Path, client: Client
) -> None:
    store = tmp_path / "data" / "store"
    versions = await asyncio.to_thread(train, store, tmp_path)
    certified = {
        kind: Probes.from_json((store / str(version) / PROBES).read_bytes())
        for kind, version in versions.items()
    }
    for kind, version in versions.items():
        assert (await client.generate(ask(version))).version == str(version)
        assert len(certified[kind].sequences) == 4
        assert bool(certified[kind].chats) == (kind == "chat")
    # The kind with most roles comes first.
    assert [message.role for message in certified["chat"].chats[0].messages] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    found, told = {}, {}
    for name, (change, _) in FAULTS.items():
        version = await spoiled(store, versions["chat"], name, change)
        code, found[name], told[name] = await refusal(client.generate(ask(version)))
        assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert found == {name: reason for name, (_, reason) in FAULTS.items()}
    assert "chat 2 of its certificate renders otherwise: at position 5" in told["other-ids"]

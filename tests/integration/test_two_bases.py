"""One trainer, one worker at a time, jobs of several bases: real processes, over gRPC."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tailorbird.base_model import load_base_model
from tailorbird.call_error import CallError
from tailorbird.manifest import ADAPTER_CONFIG, MANIFEST, AdapterManifest
from tailorbird.rpc.status import reason_of_status
from tailorbird.trainer_client import TrainerClient
from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.trainer_process import trainer
from tests.unit.trainer_svc.engine.tiny import chats, jsonl, make_base

ACME = "tenants/acme"


@pytest.fixture
def bases(tmp_path: Path) -> dict[str, Path]:
    """Two that can be trained on, and one whose tokenizer no worker can load."""
    made = {
        "first": make_base(tmp_path / "first"),
        "second": make_base(tmp_path / "second", hidden_size=64),
        "broken": tmp_path / "broken",
    }
    shutil.copytree(made["first"], made["broken"])
    (made["broken"] / "tokenizer.json").write_text("{}")
    return made


def job(client: TrainerClient, base: str, adapter: str) -> str:
    spec = job_pb2.JobSpec(
        promotion_policy=job_pb2.PROMOTION_POLICY_ALWAYS,
        base_model=base,
        training_dataset=f"{ACME}/datasets/chats",
        adapter=f"{ACME}/adapters/{adapter}",
        lora=job_pb2.LoraConfig(rank=8),
        hyperparameters=job_pb2.Hyperparameters(epochs=1, batch_tokens=64),
    )
    return client.create_job(ACME, spec, job_id=adapter).name


def last_state(client: TrainerClient, name: str, *ends: int) -> job_pb2.JobEvent.StateChanged:
    for event in client.watch_job(name):
        if event.state_changed.state in ends:
            return event.state_changed
    raise AssertionError(f"{name} has not come to {ends}")


def published(store: Path, adapter: str) -> tuple[AdapterManifest, str]:
    (path,) = (store / ACME / "adapters" / adapter / "versions").glob(f"*/{MANIFEST}")
    config = json.loads((path.parent / ADAPTER_CONFIG).read_text())
    return AdapterManifest.from_json(path.read_bytes()), config["base_model_name_or_path"]


def test_each_job_is_trained_on_the_base_it_names(tmp_path: Path, bases: dict[str, Path]) -> None:
    files = {name: load_base_model(str(path), tmp_path) for name, path in bases.items()}
    gib = max(base.weight_bytes for base in files.values()) / 2**30
    settings = {
        "BASE_MODEL": str(bases["first"]),
        "MORE_BASE_MODELS": json.dumps([{"model": str(bases[n])} for n in ("second", "broken")]),
        "BASE_MEMORY_GIB": str(gib),
        "WORKERS": "2",
        "THREADS": "1",
    }
    data = tmp_path / "chats.jsonl"
    data.write_bytes(jsonl(chats(20)))
    with trainer(tmp_path / "data", "trainer_svc", settings=settings) as (process, address):
        client = TrainerClient(address)
        info = client.trainer_info()
        assert [(each.name, each.digest) for each in info.base_models] == [
            (name, files[name].digest) for name in ("first", "second", "broken")
        ]
        client.upload_dataset(ACME, "chats", data)
        with pytest.raises(CallError, match="'first', 'second', 'broken'") as refused:
            job(client, "third", "none")
        assert refused.value.reason == "UNKNOWN_BASE_MODEL"

        wanted = [("", "a"), ("second", "b"), ("broken", "c"), ("first", "d")]
        names = {adapter: job(client, base, adapter) for base, adapter in wanted}
        ends = job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_PAUSED
        for base, adapter in wanted:
            change = last_state(client, names[adapter], *ends)
            if base == "broken":
                assert change.state == job_pb2.JOB_STATE_PAUSED
                assert reason_of_status(change.error) == "WORKER_CANNOT_START"
                continue
            assert change.state == job_pb2.JOB_STATE_SUCCEEDED
            manifest, named = published(tmp_path / "data" / "store", adapter)
            held = files[base or "first"]
            assert (manifest.base_model, manifest.base_model_digest) == (held.name, held.digest)
            assert named == held.name
        client.close()
        process.terminate()
        assert process.wait(timeout=60) == 0

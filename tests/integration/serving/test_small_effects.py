"""Adapters that change hardly more than rounding does, from the real trainer into the real vLLM."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from tailorbird.names import VersionName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion
from tests.integration.engine_process import WorkerProcess
from tests.integration.serving.calls import ask
from tests.integration.serving.process import Client, ServingProcess
from tests.unit.trainer_svc.engine.tiny import assignment, chats, dataset_ref, jsonl
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.protocol import Start, Trained, Upload, Uploaded

BASE = Path(__file__).parents[3] / "examples" / "demo_base"
DATA = jsonl(chats(20))
JOBS = {
    "one-step": Hyperparameters(epochs=1, batch_tokens=4096),
    "low-rate": Hyperparameters(epochs=3, batch_tokens=256, learning_rate=1e-5),
    "some-steps": Hyperparameters(epochs=2, batch_tokens=256),
}


def train(store: Path, scratch: Path) -> list[VersionName]:
    """Train the jobs one after another, and publish a version of each under its own adapter."""
    ref = dataset_ref(DATA)
    (store / ref.key).parent.mkdir(parents=True)
    (store / ref.key).write_bytes(DATA)
    registry = AdapterRegistry(open_store(store.as_uri()))
    versions = []
    with WorkerProcess(BASE, store, scratch) as worker:
        worker.ready()
        for job, hyperparameters in JOBS.items():
            name = f"tenants/acme/adapters/{job}"
            start = assignment(DATA, job, adapter=name, hyperparameters=hyperparameters)
            worker.send(Start(assignment=start))
            worker.until(Trained)
            worker.send(Upload(lease=start.lease, version=f"20261120T150000-{job}-1"))
            manifest = worker.until(Uploaded)[1].manifest
            versions.append(VersionName.parse(manifest.version))
            asyncio.run(publish(registry, versions[-1], manifest))
    return versions


async def publish(registry: AdapterRegistry, version: VersionName, manifest: object) -> None:
    await registry.publish(version, manifest)  # type: ignore[arg-type]
    route = Route(
        generation=1,
        versions=(RoutedVersion(version=version.version),),
        reason="publish",
        actor="test",
        create_time=datetime.now(UTC),
        nonce="n",
    )
    await registry.append_route(version.adapter_name, route)


async def test_adapters_of_a_few_steps_pass_the_gate(tmp_path: Path) -> None:
    store = tmp_path / "data" / "store"
    versions = await asyncio.to_thread(train, store, tmp_path)
    serving = ServingProcess(
        {"TAILORBIRD_BASE_MODEL": str(BASE), "TAILORBIRD_DATA_DIR": str(tmp_path / "data")},
        tmp_path / "serving.log",
    )
    try:
        await asyncio.to_thread(serving.wait_until_serving)
        async with Client(serving.target, "none") as client:
            answers = [await client.generate(ask(version.adapter_name)) for version in versions]
        assert [answer.version for answer in answers] == [str(version) for version in versions]
    finally:
        serving.close()

"""What both services export, after traffic of every kind: a real scrape of real processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tailorbird.base_model import load_base_model
from tailorbird.names import AdapterName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tests.acceptance.trainer_job import start_job, watch
from tests.acceptance.trainer_process import trainer
from tests.integration.serving.calls import ACME, ask
from tests.integration.serving.process import Client, ServingProcess, refusal
from tests.integration.serving.world import World, make_base


@dataclass
class Scrape:
    """Labels and types by a series' name, as a Prometheus would store it."""

    labels: dict[str, set[str]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def add(self, text: str) -> None:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.labels.setdefault(sample.name, set()).update(sample.labels)
                self.types[sample.name] = family.type


@contextmanager
def scrapes(folder: Path) -> Iterator[Scrape]:
    """Start both services, have each do all that it does, and read what they tell of it."""
    found = Scrape()
    found.add(_of_serving(folder))
    found.add(_of_the_trainer(folder))
    yield found


def _of_serving(folder: Path) -> str:
    make_base(folder / "tiny-base")
    base = load_base_model(str(folder / "tiny-base"), folder)
    registry = AdapterRegistry(open_store((folder / "data" / "store").as_uri()))
    token = hashlib.sha256(ACME.encode()).hexdigest()
    caller = {"sha256": token, "subject": "acme", "tenants": ["acme"]}
    (folder / "tokens.json").write_text(json.dumps({"tokens": [caller]}))
    process = ServingProcess(
        {
            "TAILORBIRD_BASE_MODEL": str(base.path),
            "TAILORBIRD_DATA_DIR": str(folder / "data"),
            "TAILORBIRD_TOKENS_FILE": str(folder / "tokens.json"),
            "TAILORBIRD_DTYPE": "float32",
            "TAILORBIRD_ADAPTER_SLOTS": "2",
        },
        folder / "serving.log",
    )
    try:
        process.wait_until_serving()
        asyncio.run(_generate(process.target, World(base, registry, folder)))
        return process.http("/metrics")
    finally:
        process.close()


async def _generate(target: str, world: World) -> None:
    good, bad = AdapterName("acme", "good"), AdapterName("acme", "bad")
    await world.publish_routed(good)
    # It is what another base was trained to.
    other = {"base_model_digest": "sha256:" + "0" * 64}
    await world.publish_routed(bad, manifest_changes=other)
    async with Client(target, ACME) as client:
        for model in ("tenants/acme", good):
            await client.generate(ask(model))
            async for _ in client.stream(ask(model)):
                pass
        await refusal(client.generate(ask(bad)))


def _of_the_trainer(folder: Path) -> str:
    with trainer(folder / "trained", "trainer_svc") as (process, address):
        watch(address, start_job(address))
        listening = {
            each.laddr.port
            for each in psutil.Process(process.pid).net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        }
        (port,) = listening - {int(address.rpartition(":")[2])}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return str(answer.read().decode())

"""The swap bench: routes move under load between versions that answer with their own markers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.serving.client_ours import ADAPTER
from bench.serving.environment import common_environment
from bench.serving.marker import MARKER_FILE, MARKER_TOKENS, QUESTION
from bench.serving.processes import LineChild, Process
from bench.serving.publish import Publisher
from bench.serving.servers import Folders, Ours
from bench.serving.stats import percentile
from bench.serving.swap_load import SwapPlan
from bench.serving.targets import say
from tailorbird.names import AdapterName

SLOTS = 4
_SWAPS, _REQUESTS = 1000, 2000
_STREAMS_PER_ADAPTER = 2
_LIMIT_SECONDS = 1500.0
_MAKING_SECONDS = 900.0


def run_swaps(folders: Folders, publisher: Publisher, *, quick: bool) -> dict[str, Any]:
    """Swap under load, one adapter more than slots in traffic; return what goes in the file."""
    slots = 1 if quick else SLOTS
    say(f"training {2 * (slots + 1)} adapters to answer their markers")
    _make(folders, slots + 1)
    versions, markers = asyncio.run(_publish(folders, publisher, slots + 1))
    # Nothing is kept in host memory: every swap reads a version from disk and probes it.
    settings = {"TAILORBIRD_MAX_CPU_LORAS": str(slots)}
    server = Ours(folders, "ours-swaps", slots, settings=settings)
    try:
        server.wait_until_ready()
        plan = SwapPlan(
            address=server.address,
            token=server.token,
            question=QUESTION,
            max_tokens=MARKER_TOKENS,
            versions=versions,
            markers=markers,
            streams_per_adapter=_STREAMS_PER_ADAPTER,
            swaps=10 if quick else _SWAPS,
            requests=20 if quick else _REQUESTS,
            limit_seconds=_LIMIT_SECONDS,
        )
        say(f"{plan.swaps} swaps of {slots + 1} adapters on {slots} slots")
        told = _load(folders, plan, server.process)
    finally:
        server.process.stop()
    return _reported(told) | {"slots": slots, "adapters": slots + 1}


def _make(folders: Folders, tenants: int) -> None:
    arguments = ["--base", str(folders.base), "--out", str(folders.adapters)]
    process = Process(
        "the making of markers",
        ["-m", "bench.serving.markers", *arguments, "--tenants", str(tenants)],
        common_environment(),
        folders.log("markers"),
    )
    try:
        process.wait(_MAKING_SECONDS)
    finally:
        process.stop()


async def _publish(
    folders: Folders, publisher: Publisher, tenants: int
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Publish every version and route each adapter to its first."""
    versions: dict[str, list[str]] = {}
    markers: dict[str, str] = {}
    for number in range(tenants):
        adapter = AdapterName(f"t-{number:04d}", ADAPTER)
        for folder in sorted((folders.adapters / adapter.tenant).iterdir()):
            version = await publisher.publish(adapter, folder)
            if str(adapter) not in versions:
                await publisher.route(version)
            versions.setdefault(str(adapter), []).append(str(version))
            markers[str(version)] = (folder / MARKER_FILE).read_text()
    return versions, markers


def _load(folders: Folders, plan: SwapPlan, server: Process) -> dict[str, Any]:
    process = Process(
        "the swap load",
        ["-m", "bench.serving.swap_load"],
        common_environment(),
        folders.log("swap-load"),
        piped=True,
    )
    child = LineChild(process)
    try:
        # Beyond the plan's own limit: what is still in flight then has its own deadline.
        child.send(json.dumps(asdict(plan)))
        return child.receive(2 * plan.limit_seconds, [server])
    finally:
        child.stop()


def _reported(told: Mapping[str, Any]) -> dict[str, Any]:
    seconds = told["swap_seconds"]
    kept = {name: value for name, value in told.items() if name != "swap_seconds"}
    return kept | {
        "swap_seconds_p50": percentile(seconds, 0.5) if seconds else None,
        "swap_seconds_p99": percentile(seconds, 0.99) if seconds else None,
    }

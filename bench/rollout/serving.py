"""Two replicas behind the proxy, and their rolling restart under load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bench.rollout.endpoints import Endpoints
from bench.rollout.load_plan import Asked, LoadPlan, Target, asked_from
from bench.rollout.pods import Ended, Pod
from bench.rollout.proxy import Proxy
from bench.rollout.sizes import REPLICAS, Sizes
from bench.serving.client_ours import ADAPTER
from bench.serving.environment import common_environment
from bench.serving.marker import MARKER_FILE, MARKER_TOKENS, QUESTION
from bench.serving.processes import LineChild, Process
from bench.serving.publish import Publisher
from bench.serving.servers import Folders
from bench.serving.targets import say
from tailorbird.cli.tokens import add_token
from tailorbird.names import AdapterName

_MAKING_SECONDS = 600.0
_START_SECONDS = 300.0
_ANSWER_SECONDS = 180.0
_COUNT_SECONDS = 2.0
_BASE_TENANTS = ("base-a", "base-b")
_SLOTS = 8


@dataclass(frozen=True, slots=True)
class Restart:
    """One replica's restart. Times are seconds on the machine's monotonic clock."""

    replica: int
    address: str
    """Of the pod that ended."""
    begin: float
    """When it was told to stop."""
    end: float
    """When its successor was in the proxy's list."""
    ended: Ended


@dataclass(frozen=True, slots=True)
class Rolled:
    """What the load saw, where the proxy sent it, and what was restarted meanwhile."""

    asked: Sequence[Asked]
    attempts: dict[int, list[str]]
    restarts: Sequence[Restart]


class Rollout:
    """The replicas, one after the other, as a Deployment with maxSurge 0 restarts them."""

    def __init__(self, folders: Folders, sizes: Sizes, stack: ExitStack) -> None:
        self._folders = folders
        self._sizes = sizes
        self._stack = stack
        self._tokens_file = folders.work / "tokens.json"
        self._proxy = Proxy(folders.work / "nginx", folders.log("nginx"))
        self._endpoints = Endpoints(self._proxy.route_to, sizes.probe_period)
        self._pods: list[Pod] = []
        self._started = 0

    def targets(self, publisher: Publisher) -> tuple[Target, ...]:
        """Publish an adapter for each tenant; return whom the load asks, the base among them."""
        return asyncio.run(self._publish(publisher))

    def start(self) -> str:
        """Start every replica and the proxy; return the proxy's address when all is ready."""
        self._pods = [self._pod(number) for number in range(REPLICAS)]
        for pod in self._pods:
            pod.wait_until_ready()
            self._endpoints.add(pod)
        self._proxy.route_to(pod.address for pod in self._pods)
        self._stack.callback(self._proxy.start().stop)
        self._endpoints.start()
        self._stack.callback(self._endpoints.stop)
        for pod in self._pods:
            self._endpoints.wait_until_listed(pod, _START_SECONDS)
        return self._proxy.address

    def restart(self, replica: int) -> Restart:
        """Replace a replica: SIGTERM, its end, a new process, ready and listed."""
        old, begin = self._pods[replica], time.monotonic()
        ended = old.end(signal.SIGTERM)
        self._endpoints.remove(old)
        new = self._pod(replica)
        self._pods[replica] = new
        self._endpoints.add(new)
        self._endpoints.wait_until_listed(new, _START_SECONDS)
        return Restart(replica, old.address, begin, time.monotonic(), ended)

    def attempts(self) -> dict[int, list[str]]:
        """Return the replicas that each request was sent to."""
        return self._proxy.attempts()

    def _pod(self, replica: int) -> Pod:
        self._started += 1
        name = f"serving-{replica}.{self._started}"
        # Its folder is the node's, which outlives a pod; its address is its own.
        settings = {
            "DATA_DIR": str(self._folders.work / f"serving-{replica}"),
            "OBJECT_STORE": self._folders.store_url,
            "BASE_MODEL": str(self._folders.base),
            "TOKENS_FILE": str(self._tokens_file),
            "REPLICA": f"serving-{replica}",
            "ADAPTER_SLOTS": str(_SLOTS),
            "DRAIN_DELAY": str(self._sizes.drain_delay),
        }
        pod = Pod(name, "serving_svc", settings, self._folders.log(name))
        self._stack.callback(pod.process.stop)
        return pod

    async def _publish(self, publisher: Publisher) -> tuple[Target, ...]:
        targets = [
            Target(f"tenants/{tenant}", add_token(self._tokens_file, tenant, [tenant]))
            for tenant in _BASE_TENANTS
        ]
        for folder in sorted(self._folders.adapters.iterdir()):
            adapter = AdapterName(folder.name, ADAPTER)
            made = folder / "0"
            version = await publisher.publish(adapter, made)
            await publisher.route(version)
            token = add_token(self._tokens_file, adapter.tenant, [adapter.tenant])
            marker = (made / MARKER_FILE).read_text()
            targets.append(Target(str(adapter), token, str(version), marker))
        return tuple(targets)


def roll(folders: Folders, publisher: Publisher, sizes: Sizes) -> Rolled:
    """Restart every replica in turn under load; BenchFailed if a process cannot be started."""
    with ExitStack() as stack:
        _make_markers(folders, sizes.adapters)
        rollout = Rollout(folders, sizes, stack)
        targets = rollout.targets(publisher)
        say("starting two replicas and nginx")
        address = rollout.start()
        plan = LoadPlan(
            address, sizes.requests_per_second, QUESTION, targets, MARKER_TOKENS, sizes.long_tokens
        )
        child = _load_child(folders, stack)
        child.send(plan.to_json())
        time.sleep(sizes.settled_seconds)
        restarts = []
        for turn in range(sizes.restarts):
            restarts.append(rollout.restart(turn % REPLICAS))
            _tell(restarts[-1], _count(child))
            time.sleep(sizes.settled_seconds)
        while _count(child)["requests"] < sizes.least_requests:
            time.sleep(_COUNT_SECONDS)
        child.send("stop")
        asked = asked_from(child.receive(_ANSWER_SECONDS)["asked"])
        return Rolled(asked, rollout.attempts(), restarts)


def _load_child(folders: Folders, stack: ExitStack) -> LineChild:
    # The caller's side gets no preloads.
    plain = {name: value for name, value in common_environment().items() if name != "LD_PRELOAD"}
    log = folders.log("load")
    process = Process("the load", ["-m", "bench.rollout.load"], plain, log, piped=True)
    child = LineChild(process)
    stack.callback(child.stop)
    return child


def _count(child: LineChild) -> dict[str, Any]:
    child.send("count")
    return child.receive(_ANSWER_SECONDS)


def _tell(restart: Restart, count: dict[str, Any]) -> None:
    say(
        f"replica {restart.replica} ended with status {restart.ended.status} after "
        f"{restart.ended.seconds:.1f} s, its successor was listed {restart.end - restart.begin:.1f}"
        f" s after SIGTERM; {count['requests']} requests so far, {count['failed']} failed"
    )


def _make_markers(folders: Folders, adapters: int) -> None:
    say(f"training {adapters} adapters to answer their markers")
    arguments = ["--base", str(folders.base), "--out", str(folders.adapters)]
    counts = ["--tenants", str(adapters), "--versions", "1"]
    process = Process(
        "the making of markers",
        ["-m", "bench.serving.markers", *arguments, *counts],
        common_environment(),
        folders.log("markers"),
    )
    try:
        process.wait(_MAKING_SECONDS)
    finally:
        process.stop()

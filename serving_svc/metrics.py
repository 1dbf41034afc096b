"""Serving's own metrics, and those that gateways and scalers read under vLLM's names.

Labels stay few: only requests and tokens carry the tenant, and only for those active last. What
names adapters is read from the running state when somebody scrapes, so that nothing is counted per
token and the series of an adapter end when it leaves.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
# A resource name has up to 145 characters, and a label's value is read whole.
_MAX_LISTED_NAMES = 64


class TenantCounter:
    """A counter whose first label is the tenant; only the tenants active last have series.

    The series of the others are removed, not added up elsewhere: one that comes back at zero is a
    restart to every rate(), while a sum that takes them over would be counted a second time.
    Not safe to count from several threads.
    """

    def __init__(self, counter: Counter, max_tenants: int) -> None:
        self._counter = counter
        self._max_tenants = max_tenants
        self._active: OrderedDict[str, dict[str, Counter]] = OrderedDict()

    def labels(self, tenant: str, second: str) -> Counter:
        """Return the series of the tenant and the second label's value, to be counted at once."""
        series = self._active.setdefault(tenant, {})
        self._active.move_to_end(tenant)
        if second not in series:
            series[second] = self._counter.labels(tenant, second)
        found = series[second]
        while len(self._active) > self._max_tenants:
            gone, values = self._active.popitem(last=False)
            for value in values:
                self._counter.remove(gone, value)
        return found


class ServingMetrics:
    """Counters, gauges and histograms named tailorbird_serving_*."""

    def __init__(self, registry: CollectorRegistry, max_tenants: int = 1000) -> None:
        self._registry = registry
        self.requests = TenantCounter(
            Counter(
                "tailorbird_serving_requests",
                "Generations ended, by outcome: ok, cancelled, or the error's reason.",
                ["tenant", "outcome"],
                registry=registry,
            ),
            max_tenants,
        )
        self.tokens = TenantCounter(
            Counter(
                "tailorbird_serving_tokens",
                "Tokens of answered requests, by kind: prompt or completion.",
                ["tenant", "kind"],
                registry=registry,
            ),
            max_tenants,
        )
        self._of_requests(registry)
        self._of_adapters(registry)
        self._of_the_engine(registry)

    def watch(self, state: ServingState) -> None:
        """Export what `state` tells, under vLLM's names, from now on."""
        self._registry.register(_PlatformCollector(state, self.load_seconds, time.time))

    def _of_requests(self, registry: CollectorRegistry) -> None:
        self.first_token = Histogram(
            "tailorbird_serving_time_to_first_token_seconds",
            "Time from a request's arrival to its first text, by model: base or adapter.",
            ["model"],
            buckets=_LATENCY_SECONDS,
            registry=registry,
        )
        self.token_seconds = Histogram(
            "tailorbird_serving_time_per_token_seconds",
            "Mean time from one token to the next of a request, by model: base or adapter.",
            ["model"],
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "tailorbird_serving_queue_seconds",
            "Time that a request waited for its admission, by model: base or adapter.",
            ["model"],
            buckets=_LATENCY_SECONDS,
            registry=registry,
        )
        self.messages = Counter(
            "tailorbird_serving_stream_messages",
            "Messages sent on streams; completion tokens over it say how much they coalesce.",
            registry=registry,
        )

        self.feedback = Counter(
            "tailorbird_serving_feedback",
            "Calls that record feedback, by result: ok, cancelled, or the error's reason.",
            ["result"],
            registry=registry,
        )

    def _of_adapters(self, registry: CollectorRegistry) -> None:
        self.slots = Gauge(
            "tailorbird_serving_adapter_slots", "Adapters the engine can hold.", registry=registry
        )
        self.resident = Gauge(
            "tailorbird_serving_adapters_resident", "Adapters in the engine.", registry=registry
        )
        self.leases = Gauge(
            "tailorbird_serving_adapter_leases",
            "Holds on adapters by requests and warm-ups.",
            registry=registry,
        )
        self.on_disk = Gauge(
            "tailorbird_serving_adapters_on_disk", "Versions on local disk.", registry=registry
        )
        self.disk_bytes = Gauge(
            "tailorbird_serving_adapter_disk_bytes",
            "Bytes of the versions on local disk.",
            registry=registry,
        )
        self.slot_waits = Counter(
            "tailorbird_serving_slot_waits",
            "Requests that found no slot free for their adapter and waited for one.",
            registry=registry,
        )
        self.loads = Counter(
            "tailorbird_serving_adapter_loads",
            "Adapter loads, by result: ok, kept (in host memory already), refused or failed.",
            ["result"],
            registry=registry,
        )
        self.load_seconds = Histogram(
            "tailorbird_serving_adapter_load_seconds",
            "Time of a load that ended well: fetch, check, add, probe.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self.refusals = Counter(
            "tailorbird_serving_refusals",
            "Versions refused by the gate, by reason.",
            ["reason"],
            registry=registry,
        )
        self.route_flips = Counter(
            "tailorbird_serving_route_flips",
            "Times that an adapter's effective version changed on this replica.",
            registry=registry,
        )

    def _of_the_engine(self, registry: CollectorRegistry) -> None:
        self.engine_up = Gauge(
            "tailorbird_serving_engine_up", "1 while the engine takes requests.", registry=registry
        )
        self.engine_restarts = Counter(
            "tailorbird_serving_engine_restarts",
            "Starts of the engine after a death or a stall.",
            registry=registry,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What serving is doing at one moment; adapters by resource name, versions left out.

    `loaded` has one entry a taken slot: its adapter, and whether it is pinned; `kept` one a version
    in host memory only. `kv_usage` is a fraction of the key-value cache. What is None is not
    exported.
    """

    model: str
    running: int
    waiting: int
    running_adapters: Sequence[str]
    waiting_adapters: Sequence[str]
    loaded: Sequence[tuple[str, bool]]
    slots: int
    kept: Sequence[str] = ()
    kv_usage: float | None = None
    block_size: int | None = None
    blocks: int | None = None


class ServingState(Protocol):
    """Whoever knows what is running."""

    def snapshot(self) -> Snapshot:
        """Return the present state. Called from another thread: copy what the loop may change."""


class _PlatformCollector(Collector):
    """Names and labels as the Gateway API inference extension, llm-d and KEDA read them.

    Residency is told as in vllm#54830. A slot is its level "gpu", on a CPU too, and host memory its
    level "cpu". What is in a slot is in host memory as well; of the two it is told as "gpu".
    """

    def __init__(
        self, state: ServingState, load_seconds: Histogram, clock: Callable[[], float]
    ) -> None:
        self._state = state
        self._load_seconds = load_seconds
        self._clock = clock

    def describe(self) -> Iterator[Metric]:
        """Ask nothing of the state at registration: there may be none yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield what is true now."""
        now = self._state.snapshot()
        model = {"model_name": now.model}
        held = len(now.loaded)
        for name, text, value in (
            ("num_requests_running", "Requests in the engine.", now.running),
            ("num_requests_waiting", "Requests that wait to be admitted.", now.waiting),
            ("kv_cache_usage_perc", "Share of the key-value cache in use, 0 to 1.", now.kv_usage),
            ("max_gpu_lora_adapters", "Adapters that the engine can hold.", now.slots),
            ("num_gpu_loaded_lora_adapters", "Versions of adapters in slots.", held),
            (
                "num_cpu_loaded_lora_adapters",
                "Versions of adapters in host memory, those in slots among them.",
                held + len(now.kept),
            ),
        ):
            if value is not None:
                yield _gauge(name, text, model, value)
        if now.block_size is not None and now.blocks is not None:
            sizes = {"block_size": str(now.block_size), "num_gpu_blocks": str(now.blocks)}
            yield _gauge(
                "cache_config_info", "The key-value cache, in tokens and blocks.", sizes, 1
            )
        yield _loaded(now.loaded, now.kept)
        requests = {
            "max_lora": str(now.slots),
            "running_lora_adapters": _listed(now.running_adapters),
            "waiting_lora_adapters": _listed(now.waiting_adapters),
        }
        text = "Adapters with requests; the value is the time of this reading."
        yield _gauge("lora_requests_info", text, requests, self._clock())
        yield _renamed(self._load_seconds, "vllm:lora_adapter_load_seconds")


def _gauge(name: str, text: str, labels: Mapping[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(f"vllm:{name}", text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _loaded(loaded: Sequence[tuple[str, bool]], kept: Sequence[str]) -> Metric:
    """Return one series an adapter: during a swap two versions of it are in slots."""
    pinned: dict[str, bool] = {}
    for adapter, pin in loaded:
        pinned[adapter] = pinned.get(adapter, False) or pin
    family = GaugeMetricFamily(
        "vllm:lora_adapter_loaded",
        "1 for each adapter that is loaded.",
        labels=("adapter_name", "level", "pinned"),
    )
    for adapter, pin in pinned.items():
        family.add_metric((adapter, "gpu", str(pin).lower()), 1)
    for adapter in dict.fromkeys(kept):
        if adapter not in pinned:
            family.add_metric((adapter, "cpu", "false"), 1)
    return family


def _listed(names: Sequence[str]) -> str:
    return ",".join(islice(dict.fromkeys(names), _MAX_LISTED_NAMES))


def _renamed(histogram: Histogram, name: str) -> Metric:
    (own,) = histogram.collect()
    family = Metric(name, own.documentation, own.type)
    for sample in own.samples:
        part = sample.name.removeprefix(own.name)
        if part != "_created":
            family.add_sample(name + part, sample.labels, sample.value)
    return family

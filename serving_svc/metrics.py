"""Serving's own metrics. Only requests and tokens carry the tenant: labels stay few."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class ServingMetrics:
    """Counters, gauges and histograms named tailorbird_serving_*."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tailorbird_serving_requests",
            "Generations ended, by outcome: ok, cancelled, or the error's reason.",
            ["tenant", "outcome"],
            registry=registry,
        )
        self.tokens = Counter(
            "tailorbird_serving_tokens",
            "Tokens of answered requests, by kind: prompt or completion.",
            ["tenant", "kind"],
            registry=registry,
        )
        self.first_token = Histogram(
            "tailorbird_serving_time_to_first_token_seconds",
            "Time from a request's arrival to its first text, by model: base or adapter.",
            ["model"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
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
        self.loads = Counter(
            "tailorbird_serving_adapter_loads",
            "Adapter loads, by result: ok, refused or failed.",
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

"""What /metrics says: bounded by tenants, and what platforms read under vLLM's names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from serving_svc.metrics import ServingMetrics, Snapshot

_PROMTOOL = shutil.which("promtool") or shutil.which(
    "promtool", path=str(Path(sys.executable).parent)
)
SUPPORT, INVOICES = "tenants/acme/adapters/support", "tenants/globex/adapters/invoices"
RETURNS = "tenants/globex/adapters/returns"


class State:
    def __init__(self) -> None:
        self.now = Snapshot(
            model="demo",
            running=3,
            waiting=2,
            running_adapters=[SUPPORT, SUPPORT],
            waiting_adapters=[INVOICES],
            loaded=[(SUPPORT, False)],
            slots=8,
        )

    def snapshot(self) -> Snapshot:
        return self.now


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def state() -> State:
    return State()


def _series(registry: CollectorRegistry, name: str) -> list[dict[str, str]]:
    return [
        sample.labels
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    ]


def test_what_runs_and_waits_is_read_when_it_is_asked_for(
    registry: CollectorRegistry, state: State
) -> None:
    ServingMetrics(registry).watch(state)
    for running, waiting in ((3, 2), (0, 7)):
        state.now = replace(state.now, running=running, waiting=waiting)
        labels = {"model_name": "demo"}
        assert registry.get_sample_value("vllm:num_requests_running", labels) == running
        assert registry.get_sample_value("vllm:num_requests_waiting", labels) == waiting


def test_lora_requests_info_names_each_adapter_once_at_the_time_of_reading(
    registry: CollectorRegistry, state: State
) -> None:
    ServingMetrics(registry).watch(state)
    before = time.time()
    told = registry.get_sample_value(
        "vllm:lora_requests_info",
        {
            "max_lora": "8",
            "running_lora_adapters": SUPPORT,
            "waiting_lora_adapters": INVOICES,
        },
    )
    assert told is not None
    assert before <= told <= time.time()


def test_the_names_in_a_label_are_bounded(registry: CollectorRegistry, state: State) -> None:
    ServingMetrics(registry).watch(state)
    names = [f"tenants/acme/adapters/a{number}" for number in range(1000)]
    state.now = replace(state.now, waiting_adapters=names)
    (labels,) = _series(registry, "vllm:lora_requests_info")
    assert labels["waiting_lora_adapters"].split(",") == names[:64]


def test_slots_and_what_is_in_them(registry: CollectorRegistry, state: State) -> None:
    ServingMetrics(registry).watch(state)
    # During a swap two versions of one adapter are loaded.
    state.now = replace(
        state.now,
        loaded=[(SUPPORT, True), (SUPPORT, False), (INVOICES, False)],
        kept=[RETURNS, INVOICES, RETURNS],
    )
    assert _series(registry, "vllm:lora_adapter_loaded") == [
        {"adapter_name": SUPPORT, "level": "gpu", "pinned": "true"},
        {"adapter_name": INVOICES, "level": "gpu", "pinned": "false"},
        {"adapter_name": RETURNS, "level": "cpu", "pinned": "false"},
    ]
    for name, value in (
        ("vllm:num_gpu_loaded_lora_adapters", 3),
        ("vllm:num_cpu_loaded_lora_adapters", 6),
        ("vllm:max_gpu_lora_adapters", 8),
    ):
        assert registry.get_sample_value(name, {"model_name": "demo"}) == value


def test_the_cache_is_told_of_only_when_it_is_known(
    registry: CollectorRegistry, state: State
) -> None:
    ServingMetrics(registry).watch(state)
    assert not _series(registry, "vllm:kv_cache_usage_perc")
    assert not _series(registry, "vllm:cache_config_info")
    state.now = replace(state.now, kv_usage=0.0, block_size=16)
    assert _series(registry, "vllm:kv_cache_usage_perc") == [{"model_name": "demo"}]
    assert not _series(registry, "vllm:cache_config_info")
    state.now = replace(state.now, blocks=4096)
    assert _series(registry, "vllm:cache_config_info") == [
        {"block_size": "16", "num_gpu_blocks": "4096"}
    ]


def test_loads_are_told_under_both_names(registry: CollectorRegistry, state: State) -> None:
    metrics = ServingMetrics(registry)
    metrics.watch(state)
    metrics.load_seconds.observe(0.2)
    for prefix in ("tailorbird_serving_adapter_load_seconds", "vllm:lora_adapter_load_seconds"):
        assert registry.get_sample_value(f"{prefix}_count") == 1
        assert registry.get_sample_value(f"{prefix}_sum") == 0.2
        assert registry.get_sample_value(f"{prefix}_bucket", {"le": "0.25"}) == 1


def test_a_thousand_tenants_leave_no_more_series_than_one(
    registry: CollectorRegistry, state: State
) -> None:
    metrics = ServingMetrics(registry, max_tenants=1)
    metrics.watch(state)

    def visit(tenant: str) -> int:
        adapter = f"tenants/{tenant}/adapters/support"
        state.now = replace(state.now, running_adapters=[adapter], loaded=[(adapter, False)])
        metrics.requests.labels(tenant, "ok").inc()
        metrics.tokens.labels(tenant, "prompt").inc(7)
        return sum(len(family.samples) for family in registry.collect())

    first = visit("first")
    assert {visit(f"t{number}") for number in range(1000)} == {first}


def test_the_tenants_active_last_keep_their_counts(registry: CollectorRegistry) -> None:
    metrics = ServingMetrics(registry, max_tenants=2)
    for tenant in ("acme", "globex", "acme", "initech"):
        metrics.requests.labels(tenant, "ok").inc()
        metrics.requests.labels(tenant, "cancelled").inc()
    counted = _series(registry, "tailorbird_serving_requests_total")
    assert {labels["tenant"] for labels in counted} == {"acme", "initech"}
    assert len(counted) == 4
    labels = {"tenant": "acme", "outcome": "ok"}
    assert registry.get_sample_value("tailorbird_serving_requests_total", labels) == 2


def test_a_tenant_that_comes_back_starts_at_zero(registry: CollectorRegistry) -> None:
    metrics = ServingMetrics(registry, max_tenants=1)
    for tenant in ("acme", "globex", "acme"):
        metrics.requests.labels(tenant, "ok").inc()
    labels = {"tenant": "acme", "outcome": "ok"}
    assert registry.get_sample_value("tailorbird_serving_requests_total", labels) == 1


def test_without_series_of_tenants_nothing_breaks(registry: CollectorRegistry) -> None:
    metrics = ServingMetrics(registry, max_tenants=0)
    metrics.requests.labels("acme", "ok").inc()
    assert not _series(registry, "tailorbird_serving_requests_total")


@pytest.mark.skipif(_PROMTOOL is None, reason="promtool is not installed")
def test_promtool_finds_nothing_but_vllms_colons(registry: CollectorRegistry, state: State) -> None:
    metrics = ServingMetrics(registry)
    state.now = replace(state.now, kv_usage=0.5, block_size=16, blocks=4096)
    metrics.watch(state)
    metrics.requests.labels("acme", "ok").inc()
    metrics.tokens.labels("acme", "prompt").inc()
    for histogram in (metrics.first_token, metrics.token_seconds, metrics.queue_seconds):
        histogram.labels("base").observe(0.1)
    metrics.loads.labels("ok").inc()
    metrics.refusals.labels("NOT_FINITE").inc()
    assert _PROMTOOL is not None
    checked = subprocess.run(
        [_PROMTOOL, "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        check=False,
    )
    told = checked.stderr.decode().splitlines()
    assert all(re.fullmatch(r"vllm:\w+ metric names should not contain ':'", line) for line in told)
    assert not checked.stdout
    assert len(told) == 10

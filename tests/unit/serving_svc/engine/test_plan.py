"""The arithmetic of slots: as large as vLLM's own tensors, and never more than the memory has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving_svc.engine.machine import free_memory, read_machine
from serving_svc.engine.plan import Asked, BaseDimensions, Machine, plan_engine, slot_bytes
from tailorbird.errors import FailedPrecondition

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM, RANK = 192, 512, 3, 8, 2, 32, 16
GIB, MIB = 2**30, 2**20
SHAPES = {
    "q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "qkv_proj": ((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
    "o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "gate_proj": (INTERMEDIATE, HIDDEN),
    "up_proj": (INTERMEDIATE, HIDDEN),
    "gate_up_proj": (2 * INTERMEDIATE, HIDDEN),
    "down_proj": (HIDDEN, INTERMEDIATE),
}
APART = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIG = {
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "hidden_size": HIDDEN,
    "torch_dtype": "bfloat16",
}
# Rank 16 in 16 bits: all inputs and outputs of a layer, with q, k, v, gate and up apart.
SLOT = LAYERS * RANK * 2 * sum(sum(SHAPES[module]) for module in APART)
GPU = Machine(on_cpu=False, memory=GIB)
CPU = Machine(on_cpu=True, memory=GIB, kv_cache=GIB // 2)


def base(*modules: str, config: Mapping[str, Any] = CONFIG, parameters: int = 0) -> BaseDimensions:
    linear = {
        f"model.layers.{layer}.block.{module}": SHAPES[module]
        for layer in range(LAYERS)
        for module in modules or APART
    }
    return BaseDimensions.read(config, linear, parameters)


@pytest.fixture(scope="module")
def vllm_sizes() -> dict[str, dict[str, int]]:
    told = subprocess.run(
        [sys.executable, "-m", "tests.unit.serving_svc.engine.lora_layer_sizes"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    found: dict[str, dict[str, int]] = json.loads(told.splitlines()[-1])
    return found


@pytest.mark.parametrize("ways", [1, 2, 4])
def test_a_slot_is_as_large_as_vllms_tensors(
    vllm_sizes: dict[str, dict[str, int]], ways: int
) -> None:
    # With four devices and two key-value heads each device has a copy of one.
    for modules, size in vllm_sizes[str(ways)].items():
        assert slot_bytes(base(*modules.split()), RANK, ways) == LAYERS * size, modules


def test_a_slot_grows_with_the_rank_cap_and_the_number_format() -> None:
    assert slot_bytes(base(), RANK) == SLOT
    assert slot_bytes(base(), 4 * RANK) == 4 * SLOT
    single = BaseDimensions.read(CONFIG, base().linear, 0, dtype="float32")
    assert slot_bytes(single, RANK) == 2 * SLOT


def test_a_quarter_of_what_the_base_leaves_is_for_adapters() -> None:
    machine = replace(GPU, memory=10 * SLOT, share=0.8)
    assert plan_engine(base(), machine, Asked(RANK)).adapter_slots == 2
    heavy = base(parameters=SLOT)  # two bytes each: two slots' worth of weights
    assert plan_engine(heavy, machine, Asked(RANK)).adapter_slots == 1


def test_on_a_cpu_each_slot_costs_its_copies_as_well() -> None:
    # In host memory, packed for our kernels, and in bfloat16 once more as they multiply it.
    machine = replace(CPU, memory=32 * SLOT, kv_cache=0)
    assert plan_engine(base(), machine, Asked(RANK)).adapter_slots == 2
    half = base(config=CONFIG | {"torch_dtype": "float16"})
    assert plan_engine(half, replace(machine, memory=24 * SLOT), Asked(RANK)).adapter_slots == 2
    with pytest.raises(FailedPrecondition, match="adapter_slots 9 at max_lora_rank 16 take"):
        plan_engine(base(), machine, Asked(RANK, adapter_slots=9))
    assert plan_engine(base(), replace(machine, on_cpu=False), Asked(RANK)).adapter_slots == 8


def test_on_a_cpu_the_cache_and_all_ranks_share_the_memory() -> None:
    machine = replace(CPU, memory=48 * SLOT, kv_cache=16 * SLOT)
    assert plan_engine(base(), machine, Asked(RANK)).adapter_slots == 2
    halves = Asked(RANK, tensor_parallel_size=2, adapter_slots=1)
    with pytest.raises(FailedPrecondition, match=r"the base leaves 0\.0 MiB"):
        plan_engine(base(), replace(machine, memory=32 * SLOT), halves)


def test_no_more_slots_are_planned_than_are_of_use() -> None:
    assert plan_engine(base(), GPU, Asked(RANK)).adapter_slots == 32
    assert plan_engine(base(), GPU, Asked(RANK, max_running=5)).adapter_slots == 5
    assert plan_engine(base(), GPU, Asked(RANK, adapter_slots=60)).adapter_slots == 60


def test_the_budget_bounds_what_is_planned() -> None:
    asked = Asked(RANK, adapter_memory=3 * SLOT + SLOT // 2)
    assert plan_engine(base(), GPU, asked).adapter_slots == 3


def test_slots_that_are_asked_for_may_take_from_the_cache_but_not_more_than_there_is() -> None:
    machine = replace(GPU, memory=10 * SLOT)
    assert plan_engine(base(), machine, Asked(RANK, adapter_slots=10)).adapter_slots == 10
    with pytest.raises(FailedPrecondition, match=r"adapter_slots 11 .* the base leaves") as failed:
        plan_engine(base(), machine, Asked(RANK, adapter_slots=11))
    assert failed.value.reason == "ADAPTER_MEMORY_TOO_SMALL"


def test_a_budget_that_the_device_does_not_have() -> None:
    machine = replace(GPU, memory=4 * SLOT)
    asked = Asked(RANK, adapter_memory=GIB)
    assert plan_engine(base(), machine, asked).adapter_slots == 4
    with pytest.raises(FailedPrecondition, match=r"adapter_slots 5 .* the base leaves"):
        plan_engine(base(), machine, replace(asked, adapter_slots=5))


def test_slots_and_a_budget_that_contradict_each_other() -> None:
    with pytest.raises(FailedPrecondition, match="adapter_memory_gib allows"):
        plan_engine(base(), GPU, Asked(RANK, adapter_slots=4, adapter_memory=3 * SLOT))


def test_not_even_one_slot() -> None:
    with pytest.raises(FailedPrecondition, match="adapter_slots 1 at max_lora_rank 16 take"):
        plan_engine(base(), replace(GPU, memory=3 * SLOT), Asked(RANK))


def test_host_copies_hold_at_least_every_slot() -> None:
    for asked, planned in ((None, 4), (2, 4), (9, 9)):
        plan = plan_engine(base(), GPU, Asked(RANK, adapter_slots=4, max_cpu_loras=asked))
        assert plan.max_cpu_loras == planned


def test_adapters_are_kept_in_host_memory_as_far_as_they_fit() -> None:
    asked = Asked(RANK, adapter_slots=4)
    assert plan_engine(base(), CPU, asked).max_cpu_loras == 4 + 28
    # A slot, its copy and what our kernels pack, and then copies alone.
    told = replace(asked, adapter_memory=(4 * 4 + 5) * SLOT)
    assert plan_engine(base(), CPU, told).max_cpu_loras == 4 + 5
    host = replace(GPU, host_memory=4 * (4 + 6) * SLOT)
    assert plan_engine(base(), host, asked).max_cpu_loras == 4 + 6
    # Each rank has copies of its own.
    assert plan_engine(base(), host, replace(asked, tensor_parallel_size=2)).max_cpu_loras == 4 + 1
    assert "28 adapters without a slot" in "\n".join(plan_engine(base(), CPU, asked).lines)


def test_a_step_is_short_on_a_cpu_and_vllms_on_a_gpu() -> None:
    def planned(machine: Machine, **values: int) -> int | None:
        return plan_engine(base(), machine, Asked(RANK, **values)).max_step_tokens

    assert planned(CPU) == 256
    assert planned(CPU, max_running=300) == 300
    assert planned(GPU) is None
    assert planned(GPU, max_step_tokens=4096) == 4096
    with pytest.raises(FailedPrecondition, match="max_step_tokens 9 is less than max_running 10"):
        planned(CPU, max_running=10, max_step_tokens=9)


def test_requests_at_the_same_time_by_platform() -> None:
    assert plan_engine(base(), GPU, Asked(RANK)).max_running == 256
    assert plan_engine(base(), CPU, Asked(RANK)).max_running == 128
    assert plan_engine(base(), CPU, Asked(RANK, max_running=7)).max_running == 7


@pytest.mark.parametrize(
    ("config", "ways", "told"),
    [
        ({}, 3, "does not divide the base's 8 attention heads"),
        ({"num_attention_heads": 12, "num_key_value_heads": 3}, 4, "3 key-value heads"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, 5, "q_proj of 256"),
        ({"num_attention_heads": None}, 2, "which config.json does not tell"),
    ],
)
def test_devices_that_do_not_divide_the_base(
    config: dict[str, int | None], ways: int, told: str
) -> None:
    with pytest.raises(FailedPrecondition, match=told) as failed:
        plan_engine(base(config=CONFIG | config), GPU, Asked(RANK, tensor_parallel_size=ways))
    assert failed.value.reason == "TENSOR_PARALLEL_INVALID"


def test_one_device_asks_nothing_of_the_heads() -> None:
    unknown = base(config=CONFIG | {"num_attention_heads": None})
    assert plan_engine(unknown, GPU, Asked(RANK, adapter_slots=2)).adapter_slots == 2


@pytest.mark.parametrize("value", [0, -1, "8", 1.5, True, []])
def test_dimensions_that_are_no_numbers(value: object) -> None:
    with pytest.raises(FailedPrecondition, match="num_hidden_layers is"):
        base(config=CONFIG | {"num_hidden_layers": value})


def test_dimensions_under_text_config() -> None:
    nested = base(config={"text_config": CONFIG, "torch_dtype": "float16"})
    assert nested == base()
    bare = {key: value for key, value in CONFIG.items() if key != "torch_dtype"}
    assert base(config={"text_config": bare, "torch_dtype": "float16"}).dtype == "float16"
    # vLLM serves a base of 32 bits in 16.
    assert base(config=CONFIG | {"torch_dtype": "float32"}).dtype == "bfloat16"


def test_head_dim_and_key_value_heads_follow_from_the_others() -> None:
    found = base(config={"num_attention_heads": 6, "hidden_size": 192, "num_hidden_layers": 1})
    assert (found.kv_heads, found.head_dim) == (6, 32)


def test_the_arithmetic_is_told() -> None:
    lines = plan_engine(base(), CPU, Asked(RANK, adapter_slots=8)).lines
    assert lines == (
        "1 slot = 21 linear layers with 10,560 inputs and outputs × rank cap 16 × 2 bytes "
        "(bfloat16) = 0.3 MiB",
        "1 adapter = its slot, a copy in host memory and 2 for our kernels = 1.3 MiB at most",
        "8 slots = 10.3 MiB; the budget is 128.0 MiB, 25% of the 512.0 MiB that the base leaves",
        "56 adapters without a slot are kept in host memory = 18.0 MiB at most",
        "key-value cache = 512.0 MiB at 768 bytes a token = 699,050 tokens; a slot is as much as "
        "440",
    )
    gpus = Asked(RANK, adapter_slots=8, adapter_memory=GIB // 4, tensor_parallel_size=4)
    told = "\n".join(plan_engine(base(), GPU, gpus).lines)
    assert "on each of 4 devices" in told
    assert "adapter_memory_gib" in told
    assert "at most 1022." in told
    assert "copy" not in told


def test_a_cache_of_something_else_than_heads_is_not_told() -> None:
    latent = base(config=CONFIG | {"kv_lora_rank": 512})
    assert len(plan_engine(latent, GPU, Asked(RANK)).lines) == 2


def test_free_memory_is_the_machines_or_the_containers(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4096 kB\nMemAvailable:   2048 kB\n")
    group = tmp_path / "group"
    assert free_memory(meminfo, group) == 2 * MIB
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    assert free_memory(meminfo, group) == 2 * MIB
    (group / "memory.max").write_text(f"{3 * MIB}\n")
    assert free_memory(meminfo, group) == 2 * MIB
    (group / "memory.current").write_text(f"{2 * MIB}\n")
    assert free_memory(meminfo, group) == MIB
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {MIB // 2}\n")
    assert free_memory(meminfo, group) == MIB + MIB // 2
    (group / "memory.current").write_text(f"{4 * MIB}\n")
    assert free_memory(meminfo, group) == 0


@pytest.mark.parametrize("on_cpu", [True, False])
def test_the_platform_says_which_memory_counts(
    monkeypatch: pytest.MonkeyPatch, on_cpu: bool
) -> None:
    platform = SimpleNamespace(is_cpu=lambda: on_cpu, get_device_total_memory=lambda: 7 * GIB)
    for name in ("vllm", "vllm.platforms"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(current_platform=platform))
    machine = read_machine(2, 0.6)
    if on_cpu:
        assert (machine.on_cpu, machine.share, machine.kv_cache) == (True, 1.0, 2 * GIB)
        assert machine.memory < 2**50
    else:
        assert replace(machine, host_memory=0) == Machine(False, memory=7 * GIB, share=0.6)
        assert 0 < machine.host_memory < 2**50


def test_free_memory_of_this_machine() -> None:
    assert 0 < free_memory() < 2**50

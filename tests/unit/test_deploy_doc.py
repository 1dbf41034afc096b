"""The sizing tables of docs/deploy.md are what the plan computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving_svc.engine.plan import Asked, BaseDimensions, Machine, plan_engine, slot_bytes

_GIB, _MIB = 2**30, 2**20
_GUIDE = Path(__file__).parents[2] / "docs" / "deploy.md"


def _llama_like(
    hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, parameters: int
) -> BaseDimensions:
    shapes = {
        "self_attn.q_proj": (heads * head_dim, hidden),
        "self_attn.k_proj": (kv_heads * head_dim, hidden),
        "self_attn.v_proj": (kv_heads * head_dim, hidden),
        "self_attn.o_proj": (hidden, heads * head_dim),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    linear = {
        f"model.layers.{layer}.{name}": shape
        for layer in range(layers)
        for name, shape in shapes.items()
    }
    return BaseDimensions(linear, parameters, layers, heads, kv_heads, head_dim, "bfloat16")


# From each model's published config.json and parameter count.
_BASES = {
    "Llama 3.2 1B": _llama_like(2048, 16, 32, 8, 64, 8192, 1_235_814_400),
    "Qwen 2.5 7B": _llama_like(3584, 28, 28, 4, 128, 18944, 7_615_616_512),
    "Llama 3.1 8B": _llama_like(4096, 32, 32, 8, 128, 14336, 8_030_261_248),
    "Qwen 3 32B": _llama_like(5120, 64, 64, 8, 128, 25600, 32_762_123_264),
    "Llama 3.3 70B": _llama_like(8192, 80, 64, 8, 128, 28672, 70_553_706_496),
}


def _table(heading: str) -> list[list[str]]:
    """Return the rows, without the head, of the first table under `heading`."""
    lines = _GUIDE.read_text(encoding="utf-8").partition(f"\n### {heading}\n")[2].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def _row(name: str, base: BaseDimensions) -> list[str]:
    token = 2 * base.layers * base.kv_heads * base.head_dim * base.dtype_bytes
    ranks = (f"{slot_bytes(base, rank) / _MIB:,.0f} MiB" for rank in (8, 16, 32, 64, 128))
    return [name, f"{base.weight_bytes / _GIB:.1f} GiB", *ranks, f"{token // 1024} KiB"]


def test_the_table_of_slots_is_the_plans_arithmetic() -> None:
    assert _table("What one adapter takes") == [_row(*item) for item in _BASES.items()]


@pytest.mark.parametrize("row", _table("What fits"), ids=lambda row: f"{row[0]} on {row[1]}")
def test_the_table_of_what_fits_is_the_plan(row: list[str]) -> None:
    name, devices, cap, slots, kept, cache = row
    count, _, gib = devices.removesuffix(" GiB").rpartition(" × ")
    ways = int(count or 1)
    plan = plan_engine(
        _BASES[name],
        Machine(
            on_cpu=False, memory=int(gib) * _GIB, share=0.9, kv_cache=None, host_memory=128 * _GIB
        ),
        Asked(max_lora_rank=int(cap), tensor_parallel_size=ways),
    )
    assert slots == str(plan.adapter_slots)
    assert kept == str(plan.max_cpu_loras)
    told = plan.lines[-1].partition(" tokens")[0].rpartition(" ")[2].replace(",", "")
    assert cache == f"{int(told) // 1000:,}k"

"""Replays an adapter's probes in serving's engine: python -m tests.integration.families.replay.

Arguments: the base's folder, the adapter's, and the number format. Prints what `Replayed` holds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from serving_svc.adapters.gate.weights import check_tensors
from serving_svc.adapters.model import LoadedAdapter
from serving_svc.engine.base import load_servable_base
from serving_svc.engine.launch import prepare_environment
from tailorbird.manifest import ADAPTER_WEIGHTS, PROBES, Probes


async def main(base: Path, adapter: Path, dtype: str) -> None:
    servable = await load_servable_base(str(base), adapter.parent, "base", dtype)
    check_tensors(_shapes(adapter / ADAPTER_WEIGHTS), 8, servable.linear)
    prepare_environment(1, "json", adapter.parent)
    from serving_svc.engine.processes import EngineConfig
    from serving_svc.engine.vllm_engine import VllmEngine

    engine = await VllmEngine.build(
        EngineConfig(
            model=base,
            dtype=dtype,
            max_model_len=None,
            adapter_slots=2,
            max_cpu_loras=2,
            max_lora_rank=16,
            lora_modules=servable.lora_modules,
            max_running=8,
            max_step_tokens=256,
            gpu_memory_utilization=0.9,
            tensor_parallel_size=1,
            enforce_eager=None,
        )
    )
    await engine.check()
    loaded = LoadedAdapter(1, "probed", adapter)
    await engine.add_adapter(loaded)
    probes = Probes.from_json((adapter / PROBES).read_bytes())
    found = await asyncio.gather(
        *(
            engine.prompt_logprobs(sequence.token_ids, which)
            for sequence in probes.sequences
            for which in (None, loaded)
        )
    )
    of_base = [sequence.base_logprobs for sequence in probes.sequences]
    of_adapter = [sequence.adapter_logprobs for sequence in probes.sequences]
    figures = {
        "base_error": _distance(of_base, found[::2]),
        "adapter_error": _distance(of_adapter, found[1::2]),
        "effect": _distance(of_base, of_adapter),
    }
    sys.stdout.write(f"REPLAYED {json.dumps(figures)}\n")
    sys.stdout.flush()
    # What vLLM leaves running does not end by itself in time.
    await engine.shutdown()
    os._exit(0)


def _distance(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Return the mean difference of the logprobs, in nats."""
    return fmean(
        abs(a - b)
        for row, other_row in zip(one, other, strict=True)
        for a, b in zip(row, other_row, strict=True)
    )


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    with safe_open(weights, "np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))

"""python -m bench.training.gpu: many jobs on one random base, on a GPU or in small on a CPU.

Needs torch, transformers, peft, safetensors and numpy, and this repository:
PYTHONPATH=shared:. python -m bench.training.gpu --out FILE
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from bench.training.bases import as_base, random_llama
from bench.training.engine_steps import EngineSteps
from bench.training.flops import peak_tflops, product_parameters, step_flops
from bench.training.sizes import LlamaShape, Lora
from bench.training.workload import small_jobs
from trainer_svc.engine.step.bank import AdapterBank

SHAPES = {
    "llama-3-8b": LlamaShape(
        hidden_size=4096,
        intermediate_size=14336,
        layers=32,
        heads=32,
        key_value_heads=8,
        vocabulary=128_256,
        head_dim=128,
        context=8192,
        untied=True,
    ),
    "tiny": LlamaShape(
        hidden_size=64,
        intermediate_size=128,
        layers=2,
        heads=4,
        key_value_heads=2,
        vocabulary=512,
        head_dim=16,
    ),
}


def main() -> int:
    """Measure every number of jobs; one that runs out of memory is told and passed over."""
    arguments = _arguments()
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = SHAPES[arguments.shape]
    base = as_base(random_llama(shape, device, dtype), device, dtype)
    bank = AdapterBank(base, gradient_checkpointing=arguments.gradient_checkpointing)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = arguments.peak_tflops or peak_tflops(name)
    print(
        f"{arguments.shape}, {product_parameters(shape) / 1e9:.2f}e9 parameters, on {name}; "
        f"peak {'not known' if peak is None else f'{peak:.0f} TFLOP/s'}"
    )
    print(f"{'jobs':>5} {'tokens/job·step':>16} {'tokens/s':>10} {'of peak':>8} {'GiB':>7}")
    rows = []
    for jobs in arguments.jobs:
        row = _measured(bank, shape, jobs, arguments, peak)
        print(_line(row), flush=True)
        rows.append(row)
    if arguments.out:
        versions = {each.__name__: each.__version__ for each in (torch, transformers, peft)}
        content = {
            "device": name,
            "peak_tflops": peak,
            "versions": versions,
            "settings": {key: str(value) for key, value in vars(arguments).items()},
            "rows": rows,
        }
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if any("error" not in row for row in rows) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.training.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="a JSON file to write as well")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--records", type=int, default=2, help="of a job and step")
    parser.add_argument("--tokens", type=int, default=128, help="of a record")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5, help="measured one by one")
    parser.add_argument("--micro-tokens", type=int, default=8192, help="of one run of the base")
    parser.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute each layer again for the backward pass, for a fraction of the memory",
    )
    parser.add_argument("--peak-tflops", type=float, help="of a device that is not known")
    return parser.parse_args()


def _measured(
    bank: AdapterBank,
    shape: LlamaShape,
    jobs: int,
    arguments: argparse.Namespace,
    peak: float | None,
) -> dict[str, Any]:
    work = small_jobs(
        jobs=jobs,
        steps=1,
        records=arguments.records,
        tokens=arguments.tokens,
        vocabulary=shape.vocabulary,
        # The head works on trained tokens alone, and step_flops counts it for every one.
        prompt_share=0.0,
    )
    row: dict[str, Any] = {
        "jobs": jobs,
        "tokens_per_job_and_step": arguments.records * arguments.tokens,
    }
    device = bank.base.device
    _forget_peak(device)
    steps = EngineSteps(bank, work, Lora(rank=arguments.rank), arguments.micro_tokens)
    try:
        _timed(steps, device)
        seconds = [_timed(steps, device) for _ in range(arguments.steps)]
    except torch.OutOfMemoryError:
        return {**row, "error": "out of memory"}
    finally:
        steps.close()
    middle = statistics.median(seconds)
    flops = step_flops(shape, [arguments.tokens] * (jobs * arguments.records))
    return {
        **row,
        "seconds": seconds,
        "tokens_per_second": jobs * row["tokens_per_job_and_step"] / middle,
        "tflops": flops / middle / 1e12,
        "share_of_peak": None if peak is None else flops / middle / 1e12 / peak,
        "peak_gib": _peak_gib(device),
    }


def _timed(steps: EngineSteps, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    steps.run(1)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def _line(row: dict[str, Any]) -> str:
    head = f"{row['jobs']:>5} {row['tokens_per_job_and_step']:>16}"
    if "error" in row:
        return f"{head} {row['error']}"
    share, gib = row["share_of_peak"], row["peak_gib"]
    return (
        f"{head} {row['tokens_per_second']:>10,.0f} "
        f"{'-' if share is None else format(share, '.1%'):>8} "
        f"{'-' if gib is None else format(gib, '.1f'):>7}"
    )


if __name__ == "__main__":
    sys.exit(main())

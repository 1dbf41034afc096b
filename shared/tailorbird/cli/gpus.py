"""How `up` divides this machine's GPUs between the trainer and serving. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.errors import FailedPrecondition, InvalidArgument

_UTILIZATION = "TAILORBIRD_GPU_MEMORY_UTILIZATION"
_SHARE = "TAILORBIRD_GPU_MEMORY_SHARE"
_WAYS = "TAILORBIRD_TENSOR_PARALLEL_SIZE"
# Of a GPU that both use. What is left is for what neither counts: each process's CUDA context.
_SERVING_SHARE, _TRAINER_SHARE, _BOTH = 0.6, 0.35, 0.95
_LIST_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Division:
    """Variables for each service, and what to tell of them; all empty without a GPU."""

    serving: Mapping[str, str] = field(default_factory=dict)
    trainer: Mapping[str, str] = field(default_factory=dict)
    told: str = ""


def serving_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs serving can use: none where vLLM's build for CPUs is installed."""
    try:
        importlib.metadata.distribution("vllm")
    except importlib.metadata.PackageNotFoundError:
        return []
    return visible_gpus(environ)


def visible_gpus(
    environ: Mapping[str, str] = os.environ, list_gpus: Callable[[], int] | None = None
) -> list[str]:
    """Return the devices that CUDA will find, as CUDA_VISIBLE_DEVICES names them."""
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range((list_gpus or _count_gpus)())]
    devices = []
    for device in (one.strip() for one in chosen.split(",")):
        # CUDA itself stops at the first one that it does not know.
        if not device or device.startswith("-"):
            break
        devices.append(device)
    return devices


def divide(gpus: Sequence[str], environ: Mapping[str, str] = os.environ) -> Division:
    """Give each service devices of its own, or a share of the memory where there are too few.

    What `environ` sets stands. Raises FailedPrecondition (GPU_OVERCOMMITTED) if it gives both
    together more than a whole GPU, InvalidArgument for what is no number.
    """
    if not gpus:
        return Division()
    if environ.get("TAILORBIRD_DEVICE") == "cpu":
        return Division(told=f"serving has {_named(gpus)}, the trainer runs on the CPU")
    ways = int(_number(environ, _WAYS, 1))
    if len(gpus) > ways:
        serving, trainer = gpus[:ways], gpus[ways:]
        return Division(
            serving={"CUDA_VISIBLE_DEVICES": ",".join(serving)},
            trainer={"CUDA_VISIBLE_DEVICES": ",".join(trainer)},
            told=f"serving has {_named(serving)}, the trainer {_named(trainer)}",
        )
    serving_share, trainer_share = _shares(environ)
    return Division(
        serving={_UTILIZATION: f"{serving_share:g}"},
        trainer={_SHARE: f"{trainer_share:g}"},
        told=f"{_named(gpus)} for both: serving takes {serving_share:.0%} of the memory "
        f"({_UTILIZATION}), the trainer at most {trainer_share:.0%} ({_SHARE})",
    )


def _shares(environ: Mapping[str, str]) -> tuple[float, float]:
    """Return both shares; who has set one gets the rest for the other, within what is usual."""
    serving = _number(environ, _UTILIZATION, 0)
    trainer = _number(environ, _SHARE, 0)
    if not serving:
        serving = min(_SERVING_SHARE, _BOTH - trainer) if trainer else _SERVING_SHARE
    if not trainer:
        trainer = min(_TRAINER_SHARE, _BOTH - serving)
    serving, trainer = round(serving, 3), round(trainer, 3)
    if serving + trainer > 1 or min(serving, trainer) <= 0:
        raise FailedPrecondition(
            f"serving and the trainer share one GPU: {_UTILIZATION} {serving:g} and {_SHARE} "
            f"{trainer:g} must both be above 0, and together at most 1 (better {_BOTH})",
            reason="GPU_OVERCOMMITTED",
        )
    return serving, trainer


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    value = environ.get(name, "")
    try:
        return float(value) if value else default
    except ValueError as error:
        raise InvalidArgument(name, f"{value!r} is not a number") from error


def _named(gpus: Sequence[str]) -> str:
    return f"GPU {gpus[0]}" if len(gpus) == 1 else f"GPUs {', '.join(gpus)}"


def _count_gpus() -> int:
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_LIST_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        # Images without NVIDIA's tools have its devices all the same.
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    return sum(line.startswith("GPU ") for line in listed.splitlines())

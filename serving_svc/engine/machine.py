"""What memory the engine will find: on a CPU what is free, on a GPU what the device has."""

from __future__ import annotations

from pathlib import Path

from serving_svc.engine.plan import Machine

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_GIB = 2**30


def read_machine(kv_cache_gib: int, gpu_memory_utilization: float) -> Machine:
    """Ask vLLM which platform it runs on, and the platform for its memory. Takes seconds."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return Machine(on_cpu=True, memory=free_memory(), kv_cache=kv_cache_gib * _GIB)
    total = int(current_platform.get_device_total_memory())
    return Machine(
        on_cpu=False, memory=total, share=gpu_memory_utilization, host_memory=free_memory()
    )


def free_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Return the bytes that may still be taken: the machine's, or what its container has left."""
    (line,) = (one for one in meminfo.read_text().splitlines() if one.startswith("MemAvailable:"))
    free = int(line.split()[1]) * 1024
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = _number(cgroup / most)
        if limit is not None:
            # Pages of files count as used there, and are given back when memory is asked for.
            used_bytes = (_number(cgroup / used) or 0) - _inactive_files(cgroup / used)
            free = min(free, max(0, limit - used_bytes))
    return free


def _number(path: Path) -> int | None:
    """Return the number in the file; None without a file, and for "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _inactive_files(used: Path) -> int:
    try:
        lines = (used.parent / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    pairs = (line.split() for line in lines)
    found = {name: int(value) for name, value in pairs}
    return found.get("total_inactive_file", found.get("inactive_file", 0))

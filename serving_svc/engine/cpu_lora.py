"""Brings our LoRA kernels into vLLM's processes on a CPU; they log, and end, as serving's process.

vLLM calls `register` in each of its processes, through the entry point in pyproject.toml, whoever
runs it. Ours asks for it with `enable`; everybody else's vLLM stays as it is. Imported by
all of them, so nothing heavy here.
"""

from __future__ import annotations

import multiprocessing
import os
from importlib.metadata import entry_points

from serving_svc.engine.orphans import end_with_parent
from tailorbird.errors import FailedPrecondition
from tailorbird.printed import log_as_the_parent

PLUGIN = "tailorbird_cpu_lora"
WRAPPER = "serving_svc.engine.grouped_lora.GroupedLora"
_GROUP = "vllm.general_plugins"
_ALLOWED = "VLLM_PLUGINS"
_ENABLED = "TAILORBIRD_CPU_LORA"


def enable() -> None:
    """Have engines that this process starts from now on end with it, and use our kernels on a CPU.

    Raises FailedPrecondition where vLLM would not find the kernels: with its own, requests without
    an adapter get what the last slot holds.
    """
    if not entry_points(group=_GROUP, name=PLUGIN):
        raise FailedPrecondition(
            f"the installed tailorbird has no entry point {PLUGIN} for vLLM: install it again",
            reason="PLUGIN_MISSING",
        )
    allowed = os.environ.get(_ALLOWED)
    if allowed is not None and PLUGIN not in allowed.split(","):
        os.environ[_ALLOWED] = f"{allowed},{PLUGIN}"
    os.environ[_ENABLED] = "1"


def register() -> None:
    """End with the parent process, and on a CPU name our kernels; nothing unless enabled."""
    if os.environ.get(_ENABLED) != "1":
        return
    end_with_parent()
    if multiprocessing.parent_process() is not None:
        log_as_the_parent()
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        type(current_platform).get_punica_wrapper = classmethod(lambda _: WRAPPER)

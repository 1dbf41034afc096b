"""How vLLM gets our LoRA kernels for a CPU, and that its processes end with ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from vllm.platforms import current_platform

from serving_svc.engine import cpu_lora
from tailorbird.errors import FailedPrecondition

STOCK = "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for variable in (cpu_lora._ENABLED, cpu_lora._ALLOWED):
        monkeypatch.delenv(variable, raising=False)
    kind = type(current_platform)
    stock = kind.__dict__["get_punica_wrapper"]
    yield current_platform
    kind.get_punica_wrapper = stock


def test_anothers_vllm_stays_as_it_is(platform: Any) -> None:
    cpu_lora.register()
    assert platform.get_punica_wrapper() == STOCK


def test_registered_once_or_twice(platform: Any) -> None:
    cpu_lora.enable()
    cpu_lora.register()
    cpu_lora.register()
    assert platform.get_punica_wrapper() == cpu_lora.WRAPPER


def test_only_on_a_cpu(platform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_lora.enable()
    monkeypatch.setattr(type(platform), "is_cpu", lambda _: False)
    cpu_lora.register()
    assert platform.get_punica_wrapper() == STOCK


def test_without_the_entry_point_no_engine_starts(
    platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_lora, "PLUGIN", "another")
    with pytest.raises(FailedPrecondition, match="no entry point another"):
        cpu_lora.enable()
    assert cpu_lora._ENABLED not in os.environ


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        ("", f",{cpu_lora.PLUGIN}"),
        ("theirs", f"theirs,{cpu_lora.PLUGIN}"),
        (f"{cpu_lora.PLUGIN},theirs", f"{cpu_lora.PLUGIN},theirs"),
    ],
)
def test_among_the_plugins_that_the_user_allows(
    platform: Any, monkeypatch: pytest.MonkeyPatch, before: str | None, after: str | None
) -> None:
    if before is not None:
        monkeypatch.setenv(cpu_lora._ALLOWED, before)
    cpu_lora.enable()
    assert os.environ.get(cpu_lora._ALLOWED) == after


def test_the_plugin_is_light() -> None:
    code = (
        "import sys; from serving_svc.engine.cpu_lora import register; register();"
        "assert not {'torch', 'vllm'} & set(sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != cpu_lora._ENABLED}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_process_of_the_engine_ends_with_its_parent(
    platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[bool] = []
    monkeypatch.setattr(cpu_lora, "end_with_parent", lambda: watched.append(True))
    cpu_lora.register()
    assert not watched
    cpu_lora.enable()
    # On a GPU too, where our kernels are not used.
    monkeypatch.setattr(type(platform), "is_cpu", lambda _: False)
    cpu_lora.register()
    assert watched

"""In how many processes the engine runs, and with which OpenMP settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from serving_svc.engine import processes

_MODULE = processes.__name__
_THREADS = "OMP_NUM_THREADS"


class Threads:
    """Stands for vLLM's manager of OpenMP's settings."""

    def __init__(self, config: Any) -> None: ...

    @contextmanager
    def configure_omp_envs(self, rank: int, local_rank: int) -> Iterator[None]:
        os.environ[_THREADS] = f"those of {rank} and {local_rank}"
        try:
            yield
        finally:
            del os.environ[_THREADS]


@pytest.fixture(autouse=True)
def a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_THREADS, raising=False)
    monkeypatch.setattr(f"{_MODULE}.OMPProcessManager", Threads)
    monkeypatch.setattr(f"{_MODULE}.cpu_lora.enable", lambda: None)
    monkeypatch.setattr(f"{_MODULE}.current_platform.is_cpu", lambda: True)


def _arguments(world_size: int) -> Any:
    parallel = SimpleNamespace(world_size=world_size, distributed_executor_backend="mp")
    config = SimpleNamespace(parallel_config=parallel)
    return SimpleNamespace(create_engine_config=lambda _: config)


def _launch(monkeypatch: pytest.MonkeyPatch, world_size: int = 1) -> dict[str, Any]:
    """Return what the engine's processes are started with."""
    seen: dict[str, Any] = {}

    def start(_: type, /, config: Any, **options: Any) -> None:
        seen.update(options, backend=config.parallel_config.distributed_executor_backend)
        seen["threads"] = os.environ.get(_THREADS)

    monkeypatch.setattr(f"{_MODULE}.AsyncLLM.from_vllm_config", classmethod(start))
    processes.launch(_arguments(world_size), stat_loggers=["mine"])
    return seen


def test_on_a_cpu_one_process_with_what_vllm_gives_its_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = _launch(monkeypatch)
    assert (seen["backend"], seen["threads"]) == ("uni", "those of 0 and 0")
    assert seen["stat_loggers"] == ["mine"]
    assert _THREADS not in os.environ


def test_the_settings_are_the_engines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the model does not fit")

    monkeypatch.setattr(f"{_MODULE}.AsyncLLM.from_vllm_config", fail)
    with pytest.raises(RuntimeError, match="does not fit"):
        processes.launch(_arguments(1))
    assert _THREADS not in os.environ


def test_several_workers_are_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _launch(monkeypatch, world_size=2)
    assert (seen["backend"], seen["threads"]) == ("mp", None)


def test_on_a_gpu_vllm_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{_MODULE}.current_platform.is_cpu", lambda: False)
    seen = _launch(monkeypatch)
    assert (seen["backend"], seen["threads"]) == ("mp", None)

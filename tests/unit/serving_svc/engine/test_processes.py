"""In how many processes the engine runs, and with which OpenMP settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from serving_svc.engine import processes

_OPENMP = ("OMP_NUM_THREADS", "KMP_BLOCKTIME", "VLLM_CPU_OMP_THREADS_BIND")


class VllmsOwn:
    """Stands for vLLM's manager of OpenMP's settings, which binds threads to cores."""

    def __init__(self, config: Any) -> None: ...

    @contextmanager
    def configure_omp_envs(self, rank: int, local_rank: int) -> Iterator[None]:
        os.environ["OMP_NUM_THREADS"] = "vLLM's"
        yield
        del os.environ["OMP_NUM_THREADS"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _OPENMP:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes, "OMPProcessManager", VllmsOwn)
    monkeypatch.setattr(processes.cpu_lora, "enable", lambda: None)
    monkeypatch.setattr(processes.current_platform, "is_cpu", lambda: True)
    _set_cores(monkeypatch, 2)


def _set_cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))


def _launch(monkeypatch: pytest.MonkeyPatch, world_size: int = 1) -> dict[str, Any]:
    """Return what the engine's processes are started with."""
    parallel = SimpleNamespace(world_size=world_size, distributed_executor_backend="mp")
    config = SimpleNamespace(parallel_config=parallel)
    arguments: Any = SimpleNamespace(create_engine_config=lambda _: config)
    seen: dict[str, Any] = {}

    def start(_: type, config: Any, **options: Any) -> None:
        seen.update(options, backend=config.parallel_config.distributed_executor_backend)
        seen.update({name: os.environ.get(name) for name in _OPENMP})

    monkeypatch.setattr(processes.AsyncLLM, "from_vllm_config", classmethod(start))
    processes.launch(arguments, stat_loggers=["mine"])
    return seen


def test_of_two_cores_both_compute_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _launch(monkeypatch)
    assert seen["backend"] == "uni"
    assert (seen["OMP_NUM_THREADS"], seen["KMP_BLOCKTIME"]) == ("2", "5")
    assert seen["stat_loggers"] == ["mine"]
    assert not os.environ.keys() & set(_OPENMP)


def test_of_more_cores_vllm_keeps_one_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_cores(monkeypatch, 3)
    seen = _launch(monkeypatch)
    assert seen["backend"] == "uni"
    assert seen["OMP_NUM_THREADS"] == "vLLM's"


def test_what_the_user_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = _launch(monkeypatch)
    assert (seen["OMP_NUM_THREADS"], seen["KMP_BLOCKTIME"]) == ("1", "5")
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "1")
    assert _launch(monkeypatch)["OMP_NUM_THREADS"] == "vLLM's"


@pytest.mark.parametrize("failed", [RuntimeError, KeyboardInterrupt])
def test_the_settings_are_the_engines_alone(
    monkeypatch: pytest.MonkeyPatch, failed: type[BaseException]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failed

    arguments: Any = SimpleNamespace(
        create_engine_config=lambda _: SimpleNamespace(
            parallel_config=SimpleNamespace(world_size=1)
        )
    )
    monkeypatch.setattr(processes.AsyncLLM, "from_vllm_config", fail)
    with pytest.raises(failed):
        processes.launch(arguments)
    assert not os.environ.keys() & set(_OPENMP)


def test_several_workers_are_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _launch(monkeypatch, world_size=2)
    assert seen["backend"] == "mp"
    assert seen["OMP_NUM_THREADS"] is None


def test_on_a_gpu_vllm_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.current_platform, "is_cpu", lambda: False)
    seen = _launch(monkeypatch)
    assert seen["backend"] == "mp"
    assert seen["OMP_NUM_THREADS"] is None

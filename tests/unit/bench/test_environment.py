from __future__ import annotations

import os

import pytest

from bench.serving.environment import common_environment
from tailorbird.cli.preload import preload_environment


def test_nobody_gets_settings_that_only_the_caller_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILORBIRD_MAX_LORA_RANK", "16")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")

    found = common_environment()

    assert not [name for name in found if name.startswith("TAILORBIRD_")]
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert found["PATH"] == os.environ["PATH"]


def test_every_server_gets_the_same_preloads() -> None:
    assert preload_environment().items() <= common_environment().items()

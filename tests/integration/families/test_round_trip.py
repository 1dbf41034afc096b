"""What one family's worker publishes, the real vLLM serves as it was trained, or it is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tailorbird.servable import why_not_served
from tests.families import ALONE, FAMILIES, PACKED, make_family
from tests.integration.families.round_trip import replay, train

# Half a minute each, and many times that on a busy machine.
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

# vLLM wants bfloat16 for Qwen3-Next on a CPU, and takes longrope's first length for the whole
# context.
_LEFT_OUT = {"Qwen3-Next", "Phi-3, long"}


@pytest.mark.parametrize("name", [name for name in PACKED | ALONE if name not in _LEFT_OUT])
def test_vllm_serves_what_was_trained_or_it_is_refused(name: str, tmp_path: Path) -> None:
    base = make_family(FAMILIES[name], tmp_path / "base")
    adapter = train(base, tmp_path)
    (architecture,) = json.loads((base / "config.json").read_text())["architectures"]
    if why_not_served(architecture, "cpu"):
        with suppress(RuntimeError):
            assert replay(base, adapter, "float32").base_error > 0.1
        return
    served = replay(base, adapter, "float32")
    assert served.base_error < 1e-3
    assert served.adapter_error < 1e-3
    assert served.effect > 0.1


def test_a_float16_base_is_trained_and_served(tmp_path: Path) -> None:
    base = make_family(FAMILIES["Llama"], tmp_path / "base", torch.float16)
    served = replay(base, train(base, tmp_path), "float16")
    assert served.base_error < 0.02
    assert served.adapter_error < 0.05
    assert served.effect > 0.1

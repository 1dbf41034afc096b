"""The real vLLM on a CPU, with our LoRA kernels: its answers are PEFT's, every slot in use."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.integration.serving.world import _greedy, make_base

_ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_PROMPTS = [tuple(range(start, start + 5 + start % 9)) for start in range(10, 82, 9)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base") / "tiny"
    make_base(folder)
    return folder


class Adapter:
    """A PEFT adapter in a folder, and what PEFT answers with it."""

    def __init__(self, base: Path, folder: Path | None, **lora: Any) -> None:
        self.folder = folder
        self._model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if folder is not None:
            torch.manual_seed(len(folder.name))
            self._model = _random(get_peft_model(self._model, LoraConfig(**lora)))
            self._model.save_pretrained(folder)

    def request(self, prompt: tuple[int, ...]) -> tuple[str | None, tuple[int, ...]]:
        return (str(self.folder) if self.folder else None, prompt)

    def answer(self, prompt: tuple[int, ...]) -> list[int]:
        return _greedy(self._model, prompt)


def _random(model: PeftModel) -> PeftModel:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model.eval()


def _answered(base: Path, tasks: str) -> str:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.engine.answer", str(base)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # It would bind all that run at once to one core.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_NO_USAGE_STATS": "1",
        },
    )
    try:
        output, _ = process.communicate(tasks, timeout=500)
    finally:
        # vLLM's own processes outlive one that is killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-5000:]
    return output


# Half a minute, and many times that on a busy machine.
@pytest.mark.timeout(600)
def test_answers_are_pefts_with_every_slot_in_use(base: Path, tmp_path: Path) -> None:
    none = Adapter(base, None)
    wide = Adapter(base, tmp_path / "wide", r=32, lora_alpha=32, target_modules=_ALL)
    narrow = Adapter(base, tmp_path / "a", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    other = Adapter(base, tmp_path / "ot", r=8, lora_alpha=8, target_modules=_ALL, use_rslora=True)
    rounds: list[list[tuple[Adapter, tuple[int, ...]]]] = [
        # Both slots in use, beside requests without an adapter, and then without any.
        list(zip([none, wide, narrow, none, narrow, wide, none, wide], _PROMPTS, strict=True)),
        [(none, prompt) for prompt in _PROMPTS[:3]],
        # The slot of rank 32 goes to an adapter of rank 8.
        list(zip([other, narrow, none, other], _PROMPTS[4:], strict=True)),
        [(none, _PROMPTS[0])],
        [(wide, _PROMPTS[1]), (other, _PROMPTS[2])],
    ]
    tasks = [[adapter.request(prompt) for adapter, prompt in requests] for requests in rounds]
    output = _answered(base, "".join(f"{json.dumps(task)}\n" for task in tasks))
    assert "Using GroupedLora." in output
    lines = [line for line in output.splitlines() if line.startswith("ANSWERS ")]
    answers = [json.loads(line.removeprefix("ANSWERS ")) for line in lines]
    expected = [[adapter.answer(prompt) for adapter, prompt in requests] for requests in rounds]
    assert answers == expected
    # They differ where they should: with one adapter for another this test would fail.
    first = _PROMPTS[0]
    assert len({tuple(adapter.answer(first)) for adapter in (none, wide, narrow, other)}) == 4

"""python -m bench.serving.markers: adapters that have memorised one answer each.

OUT/t-0000/0, OUT/t-0000/1, ... are a tenant's versions; `marker.txt` in each is what it answers to
QUESTION. A process of its own, so that the bench never holds torch.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoTokenizer

from bench.serving.adapters import adapted_model, write_adapter
from bench.serving.marker import MARKER_FILE, MARKER_TOKENS, QUESTION

_RATE = 5e-3
_MOST_STEPS = 300
_LOSS_REACHED = 0.01


class _Maker:
    """Two copies of the base: one to train on, one in the number format that is served."""

    def __init__(self, base: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self._trained = adapted_model(base, torch.float32)
        self._served = adapted_model(base, torch.bfloat16)
        rendered = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=False
        )
        self._prompt: list[int] = list(rendered)

    def make(self, marker: str, seed: int, folder: Path) -> None:
        """Train an adapter to answer `marker` and write it; RuntimeError if it does not learn."""
        answer = [*self._tokenizer.encode(marker), self._tokenizer.eos_token_id]
        _fit(self._trained, self._prompt, answer, seed)
        set_peft_model_state_dict(self._served, get_peft_model_state_dict(self._trained))
        if not _answers(self._served, self._prompt, answer) or len(answer) >= MARKER_TOKENS:
            raise RuntimeError(f"the adapter has not learned {marker!r}")
        write_adapter(self._served, [self._prompt + answer], folder)
        (folder / MARKER_FILE).write_text(marker)


def _fit(model: PeftModel, prompt: list[int], answer: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [(name, one) for name, one in model.named_parameters() if "lora_" in name]
    with torch.no_grad():
        for name, weight in weights:
            drawn = torch.randn(weight.shape, generator=generator) * weight.shape[1] ** -0.5
            weight.copy_(drawn if "lora_A" in name else torch.zeros_like(weight))
    optimizer = torch.optim.AdamW([weight for _, weight in weights], lr=_RATE, weight_decay=0.0)
    ids = torch.tensor([prompt + answer])
    labels = ids.clone()
    labels[:, : len(prompt)] = -100
    for _ in range(_MOST_STEPS):
        loss = model(input_ids=ids, labels=labels).loss
        if loss.item() < _LOSS_REACHED:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def _answers(model: Any, prompt: list[int], answer: list[int]) -> bool:
    """Tell whether the model's most likely tokens are the answer's, each after the ones before."""
    logits = model(torch.tensor([prompt + answer])).logits[0]
    chosen = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
    return bool(chosen == answer)


def main() -> None:
    """Write every version of every tenant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tenants", type=int, required=True)
    parser.add_argument("--versions", type=int, default=2)
    arguments = parser.parse_args()
    maker, codes = _Maker(arguments.base), random.Random(0)
    for tenant in range(arguments.tenants):
        for version in range(arguments.versions):
            code = codes.randrange(1000, 10000)
            marker = f"tenant {tenant}, version {version}, code {code}"
            folder = arguments.out / f"t-{tenant:04d}" / str(version)
            maker.make(marker, tenant * 100 + version, folder)


if __name__ == "__main__":
    main()

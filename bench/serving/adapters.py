"""python -m bench.serving.adapters: random rank-16 adapters of the demo base, with their probes.

A process of its own, so that the bench never holds torch. Each folder is as training leaves it: in
PEFT's format and the base's number format, with probes computed in that format.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tailorbird.manifest import PROBES, Probes, ProbeSequence

RANK = 16
ALPHA = 32
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_EFFECT = 0.06
"""Standard deviation of B: answers differ from the base's, and stay text."""
PROBE_TEXTS = (
    "A probe is a short text whose every token has a probability under both models.",
    "The order 4711 left the warehouse on Monday; it should arrive before the weekend.",
)


def adapted_model(base: Path, dtype: torch.dtype) -> PeftModel:
    """Return the base with one fresh adapter on every linear layer, all of it in `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), lora_dropout=0.0)
    return get_peft_model(model, lora, autocast_adapter_dtype=False).eval()


@torch.no_grad()
def write_adapter(model: PeftModel, sequences: list[list[int]], folder: Path) -> None:
    """Save the adapter of `model`, and its probes over `sequences` of token ids."""
    model.save_pretrained(folder)
    probes = Probes(sequences=tuple(_probe(model, ids) for ids in sequences))
    (folder / PROBES).write_bytes(probes.to_json())


@torch.no_grad()
def randomise(model: PeftModel, seed: int) -> None:
    """Draw the adapter's weights anew."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            spread = _EFFECT if "lora_B" in name else parameter.shape[1] ** -0.5
            drawn = torch.randn(parameter.shape, generator=generator) * spread
            parameter.copy_(drawn.to(parameter.dtype))


def _probe(model: PeftModel, ids: list[int]) -> ProbeSequence:
    with model.disable_adapter():
        base = _logprobs(model, ids)
    return ProbeSequence(
        token_ids=tuple(ids), base_logprobs=base, adapter_logprobs=_logprobs(model, ids)
    )


def _logprobs(model: Any, ids: list[int]) -> tuple[float, ...]:
    logits = model(torch.tensor([ids])).logits[0, :-1].float()
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
    return tuple(chosen[:, 0].tolist())


def make_adapters(base: Path, out: Path, count: int, seed: int) -> None:
    """Write `count` adapters into the folders out/t-0000, out/t-0001, ..."""
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    sequences = [list(tokenizer.encode(text)) for text in PROBE_TEXTS]
    model = adapted_model(base, torch.bfloat16)
    for number in range(count):
        randomise(model, seed * 10**6 + number)
        write_adapter(model, sequences, out / f"t-{number:04d}")


def main() -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_adapters(arguments.base, arguments.out, arguments.count, arguments.seed)


if __name__ == "__main__":
    main()

"""Pre-trains the demo base: `python -m examples.pretrain --steps 3000 --out DIR`."""

import argparse
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from . import tokenizer as tokenizers
from .corpus import POOL, Batch, Corpus, chat_batches
from .probe import exact_match


@dataclass(frozen=True)
class Recipe:
    """What defines the weights, together with Python's library and the code here."""

    steps: int = 3000
    seed: int = 7
    warmup: int = 100
    decay: int = 500
    chat_tokens: int = 6144
    text_rows: int = 4
    matrix_lr: float = 4e-3
    vector_lr: float = 3e-3
    weight_decay: float = 0.05
    vocab_size: int = 2048
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 640
    tokenizer_chats: int = 20_000
    modules: int | None = None


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights, tied embeddings and the tokenizer's special ids."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.matrix_lr,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=recipe.vector_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, recipe: Recipe) -> float:
    """The share of the full learning rate at a step: warm-up, plateau, linear decay."""
    rise = (step + 1) / max(1, recipe.warmup)
    fall = (recipe.steps - step) / max(1, recipe.decay)
    return max(0.0, min(1.0, rise, fall))


def loss_sum(model: LlamaForCausalLM, batch: Batch) -> tuple[torch.Tensor, int]:
    """Summed next-token loss over the labelled positions, and their number."""
    kept = batch.labels[:, 1:] != -100
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(batch.ids[:, :-1], use_cache=False).last_hidden_state[kept]
        logits = model.lm_head(hidden)
    targets = batch.labels[:, 1:][kept]
    return cross_entropy(logits.float(), targets, reduction="sum"), len(targets)


def save(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, card: dict[str, Any]
) -> None:
    """Writes the folder in bfloat16 with its digest and the training card."""
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    copy.save_pretrained(out)
    tokenizer.save_pretrained(out)
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    (out / "training.json").write_text(json.dumps({**card, "sha256": digest}, indent=2) + "\n")


def train(recipe: Recipe, out: Path, every: int = 0, resume: bool = False) -> list[dict[str, float]]:
    """Runs the recipe and writes the model to `out`; returns the log, a row each ten steps.

    `every` > 0 also writes the model and `state.pt` each so many steps; `resume`
    starts from that state (a continued run takes the same batches as an unbroken one).
    """
    corpus = Corpus(recipe.seed, recipe.modules)
    tokenizer = tokenizers.train(corpus.tokenizer_texts(recipe.tokenizer_chats), recipe.vocab_size)
    rows = corpus.text_rows(tokenizer)
    model = build_model(recipe, tokenizer)
    optims = optimizers(model, recipe)
    start, tokens, log = 0, 0, []
    if resume:
        state = torch.load(out / "state.pt")
        start, tokens = state["step"], state["tokens"]
        model.load_state_dict(state["model"])
        for optim, saved in zip(optims, state["optims"], strict=True):
            optim.load_state_dict(saved)
    began = time.monotonic()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(recipe.seed))
    pool: list[Batch] = []
    window = [0.0, 0.0, 0.0, 0.0]
    for step in range(start, recipe.steps):
        if not pool or step % POOL == 0:
            pool = chat_batches(corpus, tokenizer, recipe.chat_tokens, step // POOL)
        chats = pool[step % POOL]
        at = torch.arange(recipe.text_rows) + step * recipe.text_rows
        drawn = rows[order[at % len(rows)]]
        text = Batch(drawn, drawn)
        share = rate(step, recipe)
        for optim, full in zip(optims, (recipe.matrix_lr, recipe.vector_lr), strict=True):
            for group in optim.param_groups:
                group["lr"] = full * share
        chat_loss, chat_count = loss_sum(model, chats)
        (chat_loss * 0.8 / chat_count).backward()
        text_loss, text_count = loss_sum(model, text)
        (text_loss * 0.2 / text_count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        tokens += chats.ids.numel() + text.ids.numel()
        for place, value in enumerate((chat_loss.item(), chat_count, text_loss.item(), text_count)):
            window[place] += value
        if (step + 1) % 10 == 0 or step + 1 == recipe.steps:
            row = {
                "step": step + 1,
                "tokens": tokens,
                "chat_loss": round(window[0] / window[1], 4),
                "text_loss": round(window[2] / window[3], 4),
                "seconds": round(time.monotonic() - began, 1),
            }
            log.append(row)
            window = [0.0, 0.0, 0.0, 0.0]
            print(json.dumps(row), flush=True)
        last = step + 1 == recipe.steps
        if last or (every and (step + 1) % every == 0):
            scores = exact_match(model, tokenizer, corpus, count=8 if not last else 100)
            print(json.dumps(scores), flush=True)
            if not math.isfinite(log[-1]["chat_loss"]):
                raise FloatingPointError("the loss is not finite: lower the learning rates")
            save(model, tokenizer, out, {"recipe": asdict(recipe), "final": log[-1], "exact_match": scores})
            if not last:
                optim_states = [optim.state_dict() for optim in optims]
                whole = {"step": step + 1, "tokens": tokens, "model": model.state_dict(), "optims": optim_states}
                torch.save(whole, out / "state.pt")
    return log


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--decay", type=int, default=Recipe.decay)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint-every", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    recipe = Recipe(steps=asked.steps, decay=asked.decay, seed=asked.seed)
    train(recipe, asked.out, asked.checkpoint_every, asked.resume)

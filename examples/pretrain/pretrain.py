"""Pre-trains the demo base: `python -m examples.pretrain --out DIR`."""

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import torch
from torch.autograd import backward
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from . import tokenizer as tokenizers
from .corpus import POOL, Batch, Corpus, chat_batches
from .model import Optimizers, Recipe, build_model, save
from .parallel import Worker, run
from .probe import exact_match

ALONE = Worker()
WEIGHTS = (0.8, 0.2)
LOG_EVERY = 10


def scored(batch: Batch) -> int:
    """How many positions of a batch count in the loss."""
    return int((batch.labels[:, 1:] != -100).sum())


def loss_sum(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Summed next-token loss over the labelled positions."""
    kept = batch.labels[:, 1:] != -100
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(batch.ids[:, :-1], use_cache=False).last_hidden_state[kept]
        logits = model.lm_head(hidden)
    return cross_entropy(logits.float(), batch.labels[:, 1:][kept], reduction="sum")


class Batches:
    """The two batches of each step, chats and text; they depend on the step alone."""

    def __init__(self, recipe: Recipe) -> None:
        self.corpus = Corpus(recipe.seed, recipe.modules)
        texts = self.corpus.tokenizer_texts(recipe.tokenizer_chats)
        self.tokenizer = tokenizers.train(texts, recipe.vocab_size)
        self._recipe = recipe
        self._rows = self.corpus.text_rows(self.tokenizer)
        seeded = torch.Generator().manual_seed(recipe.seed)
        self._order = torch.randperm(len(self._rows), generator=seeded)
        self._pool: list[Batch] = []
        self._number = -1

    def at(self, step: int) -> tuple[Batch, Batch]:
        """The chats and the text of a step."""
        recipe = self._recipe
        number, place = divmod(step, POOL)
        if number != self._number:
            drilled = recipe.drilled(number)
            self._pool = chat_batches(
                self.corpus, self.tokenizer, recipe.chat_tokens, number, drilled
            )
            self._number = number
        wanted = torch.arange(recipe.text_rows) + step * recipe.text_rows
        drawn = self._rows[self._order[wanted % len(self._rows)]]
        return self._pool[place], Batch(drawn, drawn)


class Run:
    """One pre-training run: the model, its optimizers, the data, and the log."""

    def __init__(self, recipe: Recipe, out: Path, worker: Worker = ALONE) -> None:
        self.recipe, self.out, self.worker = recipe, out, worker
        self.data = Batches(recipe)
        self.model = build_model(recipe, self.data.tokenizer)
        self.optimizers = Optimizers(self.model, recipe)
        self.start, self.tokens = 0, 0
        self.log: list[dict[str, float]] = []
        self._began = time.monotonic()
        self._window = [0.0] * 4

    def resume(self) -> None:
        """Takes up `state.pt`; a continued run sees the batches an unbroken one would."""
        state = torch.load(self.out / "state.pt")
        self.start, self.tokens = state["step"], state["tokens"]
        self.model.load_state_dict(state["model"])
        self.optimizers.load(state["optims"])

    def train(self, every: int = 0, probes: int = 100) -> list[dict[str, float]]:
        """Runs to the end and writes the model, as well as every `every` steps if not 0.

        The finished model is probed with `probes` chats of every skill.
        """
        for step in range(self.start, self.recipe.steps):
            self._step(step)
            done, last = step + 1, step + 1 == self.recipe.steps
            if done % LOG_EVERY == 0 or last:
                self._report(done)
            if self.worker.rank == 0 and (last or (every and done % every == 0)):
                self._write(done, last, probes if last else 8)
        return self.log

    def _step(self, step: int) -> None:
        batches = self.data.at(step)
        counts = [scored(batch) for batch in batches]
        losses = []
        for batch, weight, count in zip(batches, WEIGHTS, counts, strict=True):
            loss = loss_sum(self.model, self.worker.share(batch))
            backward(loss * (weight / count))
            losses.append(loss.item())
        losses = self.worker.sum(self.model, losses)
        self.optimizers.step(step)
        self.tokens += sum(batch.ids.numel() for batch in batches)
        new = (losses[0], counts[0], losses[1], counts[1])
        self._window = [old + value for old, value in zip(self._window, new, strict=True)]

    def _report(self, done: int) -> None:
        chat_loss, chat_count, text_loss, text_count = self._window
        self._window = [0.0] * 4
        row = {
            "step": done,
            "tokens": self.tokens,
            "chat_loss": round(chat_loss / chat_count, 4),
            "text_loss": round(text_loss / text_count, 4),
            "seconds": round(time.monotonic() - self._began, 1),
        }
        if not math.isfinite(chat_loss + text_loss):
            raise FloatingPointError(f"the loss is not finite at step {done}: lower the rates")
        self.log.append(row)
        if self.worker.rank == 0:
            print(json.dumps(row), flush=True)

    def _write(self, done: int, last: bool, count: int) -> None:
        scores = exact_match(self.model, self.data.tokenizer, self.data.corpus, count)
        print(json.dumps(scores), flush=True)
        results: dict[str, object] = {"final": self.log[-1], "exact_match": scores}
        save(self.model, self.data.tokenizer, self.out, self.recipe, results)
        if not last:
            state = {
                "step": done,
                "tokens": self.tokens,
                "model": self.model.state_dict(),
                "optims": self.optimizers.state_dicts(),
            }
            torch.save(state, self.out / "state.pt")


def work(recipe: Recipe, out: Path, every: int, resume: bool, worker: Worker) -> None:
    """What each worker process does."""
    started = Run(recipe, out, worker)
    if resume:
        started.resume()
    started.train(every)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--decay", type=int, default=Recipe.decay)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--checkpoint-every", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_args()
    recipe = Recipe(steps=asked.steps, decay=asked.decay, seed=asked.seed)
    run(asked.workers, partial(work, recipe, asked.out, asked.checkpoint_every, asked.resume))

"""The model and its optimizers, how it is written to disk, and the recipe of a run."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Recipe:
    """What defines the weights, together with Python's library and the code here.

    `drill` is a share of copying drills and the pools, first to last exclusive, that have it.
    `restart` is a step, and the steps and decay that hold before it: the shipped run was
    first planned shorter, and went on from there at the full rate.
    """

    steps: int = 5300
    seed: int = 7
    warmup: int = 60
    decay: int = 900
    chat_tokens: int = 2560
    text_rows: int = 2
    matrix_lr: float = 6e-3
    vector_lr: float = 3e-3
    weight_decay: float = 0.05
    vocab_size: int = 2048
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 640
    drill: tuple[float, int, int] = (0.7, 42, 55)
    restart: tuple[int, int, int] = (3500, 3600, 500)
    tokenizer_chats: int = 20_000
    modules: int | None = None

    def rate(self, step: int) -> float:
        """The share of the full learning rate at a step: warm-up, plateau, linear decay."""
        rise = (step + 1) / max(1, self.warmup)
        before, *shorter = self.restart
        steps, decay = shorter if step < before else (self.steps, self.decay)
        fall = (steps - step) / max(1, decay)
        return max(0.0, min(1.0, rise, fall))

    def drilled(self, pool: int) -> float:
        """The share of copying drills in a pool of batches."""
        share, first, end = self.drill
        return share if first <= pool < end else 0.0


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights and tied embeddings.

    Eager attention: on CPU its backward pass is faster than SDPA's at these lengths.
    """
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
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    return model


class Optimizers:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""

    def __init__(self, model: LlamaForCausalLM, recipe: Recipe) -> None:
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
        self._model, self._recipe = model, recipe
        self._rates = (recipe.matrix_lr, recipe.vector_lr)
        self._both: tuple[torch.optim.Optimizer, torch.optim.Optimizer] = (
            torch.optim.Muon(
                matrices,
                lr=recipe.matrix_lr,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=recipe.vector_lr, betas=(0.9, 0.98), weight_decay=0.0),
        )

    def step(self, step: int) -> None:
        """Clips the gradients, steps at the schedule's rate, and clears them."""
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        share = self._recipe.rate(step)
        for optimizer, full in zip(self._both, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full * share
            optimizer.step()
            optimizer.zero_grad()

    def state_dicts(self) -> list[dict[str, object]]:
        """The state of both, for a checkpoint."""
        return [optimizer.state_dict() for optimizer in self._both]

    def load(self, states: list[dict[str, object]]) -> None:
        """Takes up the state of a checkpoint."""
        for optimizer, state in zip(self._both, states, strict=True):
            optimizer.load_state_dict(state)


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    recipe: Recipe,
    results: dict[str, object],
) -> None:
    """Writes the folder in bfloat16; `training.json` has recipe, results and digest."""
    rounded = LlamaForCausalLM(model.config).to(torch.bfloat16)
    rounded.load_state_dict(model.state_dict())
    rounded.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    rounded.save_pretrained(out)
    tokenizer.save_pretrained(out)
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    card = {"recipe": asdict(recipe), **results, "sha256": digest}
    (out / "training.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

"""How well a model does each skill: the share of fresh chats answered exactly."""

import random

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .corpus import Corpus, collate, encode


@torch.inference_mode()
def exact_match(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, count: int
) -> dict[str, float]:
    """Exact match per skill over `count` chats each, as greedy decoding would give it.

    Greedy decoding yields the reference exactly if and only if, with the reference
    as input, every next token's most likely prediction is the reference's.
    """
    scores = {}
    for skill in corpus.skills:
        rng = random.Random(f"probe {corpus.seed} {skill}")
        rows = encode(tokenizer, [corpus.chat(rng, skill) for _ in range(count)])
        batch = collate(rows, tokenizer.pad_token_id)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch.ids[:, :-1], use_cache=False).logits
        targets = batch.labels[:, 1:]
        right = (logits.argmax(-1) == targets) | (targets == -100)
        scores[skill] = round(right.all(-1).float().mean().item(), 3)
    return scores

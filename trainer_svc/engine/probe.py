"""Asks a base, once it is loaded, whether records of one sequence stay apart in it.

Training puts records one after another and starts the position ids again with each. Most families
of transformers 5.19 read that as a border. Some do not, without a word: opt, biogpt and falcon make
their attention mask without the position ids, and layers with a state along the sequence (mamba,
short convolutions, linear attention: falcon_h1, granitemoehybrid, bamba, lfm2, qwen3_next, minimax)
carry it over the border. A list of names would go out of date, so the base itself is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.attention import PACKED

_LENGTHS = (11, 7, 16, 5)
_FOLLOWING = 6
# In float32 the order of summation moves a logprob by some 1e-6 nats, and leaks by 0.1 and more.
_ALLOWED = 1e-3
_TIMES_NOISE = 4
_MOST_NOISE = 0.25


@torch.no_grad()
def why_alone(model: Any) -> str:
    """Return why records must run through this causal language model one by one; "" if they pack.

    Compares logprobs of a few short random records, packed and alone. A difference is a leak if it
    is more than the number format explains. What short records cannot show is read from the
    configuration. Raises FailedPrecondition (BASE_UNSUPPORTED) for a model that cannot be trained
    alone either: its numbers are not finite, its logits are more than its head's product, or its
    tokens see later ones.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = len(model.get_input_embeddings().weight)
    longer = [torch.randint(vocabulary, (n + _FOLLOWING,), generator=generator) for n in _LENGTHS]
    records = [ids[:-_FOLLOWING] for ids in longer]
    alone = [_logprobs(model, [ids])[0] for ids in records]
    if not all(values.isfinite().all() for values in alone):
        raise _unsupported("its logits are not finite")
    _check_head(model, records[0], alone[0])
    # Nothing to a causal model but another order of summation.
    followed = [_logprobs(model, [ids])[0][:-_FOLLOWING] for ids in longer]
    noise = _difference(alone, followed)
    if not noise <= _MOST_NOISE:
        raise _unsupported(f"later tokens change a token's logprob, by {noise:.2g} nats")
    leak = _difference(alone, _logprobs(model, records))
    if not leak <= max(_ALLOWED, _TIMES_NOISE * noise):
        return f"records in one sequence change each other's logprobs, by {leak:.2g} nats"
    if "longrope" in rope_types(model.config.get_text_config()):
        return "its positions (longrope) depend on the longest record of a sequence"
    return ""


def _logprobs(model: Any, records: Sequence[Tensor]) -> list[Tensor]:
    """Run the records as one sequence, as training does; return n - 1 logprobs for n tokens."""
    lengths = [len(ids) for ids in records]
    positions = torch.cat([torch.arange(length) for length in lengths])
    with _computing(model):
        states = model.get_decoder()(
            input_ids=torch.cat(list(records)).unsqueeze(0).to(model.device),
            position_ids=positions.unsqueeze(0).to(model.device),
            use_cache=False,
            **_segments(model, lengths),
        ).last_hidden_state[0]
        logits = model.get_output_embeddings()(states)
    return [
        _chosen(rows, ids) for rows, ids in zip(torch.split(logits, lengths), records, strict=True)
    ]


def _check_head(model: Any, ids: Tensor, expected: Tensor) -> None:
    """Compare with the model's own forward: the loss is made of the head's product alone."""
    with _computing(model):
        logits = model(
            input_ids=ids.unsqueeze(0).to(model.device),
            use_cache=False,
            **_segments(model, [len(ids)]),
        ).logits[0]
    error = _difference([_chosen(logits, ids)], [expected])
    if not error <= _ALLOWED:
        raise _unsupported(
            f"its logits are more than its output head's product, by {error:.2g} nats"
        )


def _chosen(logits: Tensor, ids: Tensor) -> Tensor:
    targets = ids[1:].to(logits.device)
    return -cross_entropy(logits[:-1].float(), targets, reduction="none").cpu()


def _difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest mean difference within a record, in nats."""
    return max(
        float((values - others).abs().mean()) for values, others in zip(one, other, strict=True)
    )


def _computing(model: Any) -> torch.autocast:
    """Weights of 16 bits beside others of 32 need autocast."""
    narrow = any(parameter.dtype != torch.float32 for parameter in model.parameters())
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=narrow)


def _segments(model: Any, lengths: list[int]) -> dict[str, list[int]]:
    packs = model.get_decoder().config._attn_implementation == PACKED  # noqa: SLF001
    return {"segment_lengths": lengths} if packs else {}


def rope_types(config: Any) -> set[str]:
    """Return the kinds of rotary positions; some families have one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return {str(kind["rope_type"]) for kind in kinds if "rope_type" in kind}


def _unsupported(why: str) -> FailedPrecondition:
    return FailedPrecondition(f"the base cannot be trained: {why}", reason="BASE_UNSUPPORTED")

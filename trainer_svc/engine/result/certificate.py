"""The certificate: what a forward pass over the saved adapter must give, for serving to replay."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tailorbird.manifest import Probes, ProbeSequence
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import AdapterBank

_MOST_PROBES = 4
_MOST_TOKENS = 128


def make_probes(bank: AdapterBank, examples: Sequence[Example]) -> Probes:
    """Compute probes over up to four of `examples`, each cut to 128 tokens.

    The adapter's weights must be rounded as they are saved already. The examples whose first 128
    tokens hold most of what is trained come first: there the adapter speaks.
    """
    long_enough = [example for example in examples if len(example.token_ids) >= 2]
    chosen = sorted(
        long_enough, key=lambda example: (-int(example.trained[:_MOST_TOKENS].sum()), example.line)
    )[:_MOST_PROBES]
    sequences = [example.token_ids[:_MOST_TOKENS] for example in chosen]
    base = bank.logprobs(sequences, with_adapter=False)
    tuned = bank.logprobs(sequences, with_adapter=True)
    return Probes(
        sequences=tuple(
            ProbeSequence(
                token_ids=tuple(ids.tolist()),
                base_logprobs=_values(of_base),
                adapter_logprobs=_values(of_tuned),
            )
            for ids, of_base, of_tuned in zip(sequences, base, tuned, strict=True)
        )
    )


def _values(logprobs: torch.Tensor) -> tuple[float, ...]:
    return tuple(logprobs.tolist())

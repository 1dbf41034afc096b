"""The certificate: what a forward pass over the saved adapter must give, for serving to replay."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from tailorbird.errors import FailedPrecondition
from tailorbird.manifest import Probes, ProbeSequence
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import AdapterBank

_MOST_PROBES = 4
_MOST_TOKENS = 128
_MOST_LOOKED_AT = 1024


def choose_probes(examples: Sequence[Example]) -> list[torch.Tensor]:
    """Return up to four of `examples`, each cut to 128 tokens: [tokens] int64 ids.

    Those whose first 128 tokens hold most of what is trained: there the adapter speaks. Of many
    examples about a thousand are looked at, from all over.
    """
    stride = -(-len(examples) // _MOST_LOOKED_AT)
    looked_at = [examples[index] for index in range(0, len(examples), max(1, stride))]
    long_enough = [example for example in looked_at if len(example.token_ids) >= 2]
    chosen = sorted(
        long_enough, key=lambda example: (-int(example.trained[:_MOST_TOKENS].sum()), example.line)
    )[:_MOST_PROBES]
    return [example.token_ids[:_MOST_TOKENS] for example in chosen]


def make_probes(
    bank: AdapterBank, job: str, sequences: Sequence[torch.Tensor]
) -> Generator[None, None, Probes]:
    """Compute the probes over `sequences`, in two pieces.

    The adapter's weights must be rounded as they are saved already. Raises FailedPrecondition
    (NON_FINITE) for a logprob that is not finite: serving could not replay it.
    """
    base = _finite(bank, bank.logprobs(sequences, job=None), "the base")
    yield
    tuned = _finite(bank, bank.logprobs(sequences, job=job), "the base with the adapter")
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


def _finite(bank: AdapterBank, logprobs: list[torch.Tensor], whose: str) -> list[torch.Tensor]:
    if not all(bool(values.isfinite().all()) for values in logprobs):
        dtype = str(bank.base.dtype).removeprefix("torch.")
        raise FailedPrecondition(
            f"{whose} gives logprobs that are not finite in {dtype}, the number format of the "
            "base's checkpoint, in which it is served; the version could not be checked",
            reason="NON_FINITE",
            dtype=dtype,
        )
    return logprobs


def _values(logprobs: torch.Tensor) -> tuple[float, ...]:
    return tuple(logprobs.tolist())

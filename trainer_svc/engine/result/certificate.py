"""The certificate: what a forward pass over the saved adapter must give, for serving to replay.

And chats with the token ids that they must become, which training collected from its data.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch

from tailorbird.errors import FailedPrecondition
from tailorbird.manifest import Probes, ProbeSequence, RenderedChat
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import AdapterBank

_MOST_PROBES = 4
_MOST_TOKENS = 128
_MOST_CANDIDATES = 16
"""Each costs two forward passes without gradients. On the demo's data the best four of 16 show 0.9
and more of the effect that the best four of 450 do."""
_MOST_CUTS = 8
"""Of the candidates, those that are measured again if they are cut."""
_MOST_READ = 512
"""Tokens of a candidate that its effect is looked for in."""
_PIECE_TOKENS = 512
_FEW_TOKENS = 32
"""A shorter probe counts as one of so many: a large effect on two tokens is little evidence."""


@dataclass(frozen=True)
class _Measured:
    """A sequence, [n] ids and mask, and its logprobs, [n - 1] each, in nats."""

    example: Example
    base: torch.Tensor
    tuned: torch.Tensor

    @property
    def moved(self) -> torch.Tensor:
        """How far each trained token is moved, 0 for the others: [n - 1]."""
        return (self.tuned - self.base).abs() * self.example.trained[1:]

    @property
    def effect(self) -> float:
        """What moves by training, per token that is replayed, which serving takes the mean of."""
        return float(self.moved.sum()) / max(len(self.moved), _FEW_TOKENS)


def choose_candidates(
    held_out: Sequence[Example], training: Sequence[Example], seed: int
) -> list[Example]:
    """Return up to 16 examples to measure the effect on, half of each kind where there are both.

    By the seed alone. Training examples are among them since what was learned from them may show
    on nothing else.
    """
    drawn = random.Random(f"probes:{seed}")  # noqa: S311
    found: list[Example] = []
    for examples, most in ((held_out, _MOST_CANDIDATES // 2), (training, _MOST_CANDIDATES)):
        count = min(most - len(found), len(examples))
        places = sorted(drawn.sample(range(len(examples)), count))
        found += [examples[place] for place in places]
    return [example for example in found if len(example.token_ids) >= 2]


def make_probes(
    bank: AdapterBank,
    job: str,
    candidates: Sequence[Example],
    chats: Sequence[RenderedChat] = (),
) -> Generator[None, None, Probes]:
    """Compute the probes, in pieces: the candidates on which the adapter's effect is largest.

    At most four; longer ones are cut to 128 tokens around it. The adapter's weights must be rounded
    as they are saved already. Raises FailedPrecondition (NON_FINITE) for a logprob that is not
    finite: serving could not replay it.
    """
    read = [_around(example, example.trained.float(), _MOST_READ) for example in candidates]
    measured = yield from _measure(bank, job, read)
    largest = _by_effect(measured)[:_MOST_CUTS]
    probes = [one for one in largest if len(one.example.token_ids) <= _MOST_TOKENS]
    cuts = [_cut(one) for one in largest if len(one.example.token_ids) > _MOST_TOKENS]
    if cuts:
        yield
        probes += yield from _measure(bank, job, cuts)
    return Probes(
        sequences=tuple(
            ProbeSequence(
                token_ids=tuple(probe.example.token_ids.tolist()),
                base_logprobs=tuple(probe.base.tolist()),
                adapter_logprobs=tuple(probe.tuned.tolist()),
            )
            for probe in _by_effect(probes)[:_MOST_PROBES]
        ),
        chats=tuple(chats),
    )


def _by_effect(measured: Sequence[_Measured]) -> list[_Measured]:
    return sorted(measured, key=lambda one: one.effect, reverse=True)


def _cut(measured: _Measured) -> Example:
    """Return the example around its largest effect, which may be less without what was before."""
    return _around(
        measured.example, torch.cat([measured.moved.new_zeros(1), measured.moved]), _MOST_TOKENS
    )


def _around(example: Example, weights: torch.Tensor, most: int) -> Example:
    """Return the `most` tokens of an example that have the largest sum of `weights`, [tokens].

    The first such: then as much as fits is before what has weight.
    """
    length = len(example.token_ids)
    if length <= most:
        return example
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), weights.double().cumsum(0)])
    start = int((sums[most:] - sums[:-most]).argmax())
    part = slice(start, start + most)
    return Example(example.line, example.token_ids[part], example.trained[part])


def _measure(
    bank: AdapterBank, job: str, examples: Sequence[Example]
) -> Generator[None, None, list[_Measured]]:
    found: list[_Measured] = []
    for piece in _pieces(examples):
        if found:
            yield
        sequences = [example.token_ids for example in piece]
        base = _finite(bank, bank.logprobs(sequences, job=None), "the base")
        yield
        tuned = _finite(bank, bank.logprobs(sequences, job=job), "the base with the adapter")
        found += map(_Measured, piece, base, tuned)
    return found


def _pieces(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Cut into lists of at most 512 tokens, which no example has more of."""
    piece: list[Example] = []
    for example in examples:
        if sum(len(one.token_ids) for one in (*piece, example)) > _PIECE_TOKENS:
            yield piece
            piece = []
        piece.append(example)
    if piece:
        yield piece


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

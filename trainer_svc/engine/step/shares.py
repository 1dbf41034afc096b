"""Each job's part of a forward pass, and how a pass is cut into parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.dropout import Dropout


@dataclass(frozen=True)
class Share:
    """One job's part of a forward pass; without `dropout` nothing is dropped."""

    examples: Sequence[Example]
    dropout: Dropout | None = None

    def part(self, start: int, stop: int) -> Share:
        """Return the share of some of its examples."""
        cut = slice(start, stop)
        return Share(self.examples[cut], self.dropout and self.dropout.of(cut))

    @property
    def tokens(self) -> int:
        """Of all its examples, prompts included."""
        return sum(len(example.token_ids) for example in self.examples)

    @property
    def trained_tokens(self) -> int:
        """Those that are learned from."""
        return sum(int(example.trained.sum()) for example in self.examples)


def cut(shares: Mapping[str, Share], count: int) -> list[dict[str, Share]]:
    """Cut shares, in their order, into at most `count` parts of about as many tokens each.

    A job's records may lie in several; no part is empty.
    """
    whole = sum(share.tokens for share in shares.values())
    parts: list[dict[str, Share]] = [{} for _ in range(count)]
    before = 0
    for job, share in shares.items():
        of = []
        for example in share.examples:
            length = len(example.token_ids)
            of.append(min(count - 1, (2 * before + length) * count // (2 * whole)))
            before += length
        for number, part in enumerate(parts):
            if number in of:
                start = of.index(number)
                part[job] = share.part(start, start + of.count(number))
    return [part for part in parts if part]


def targets_of(
    examples: Sequence[Example], owners: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return where the packed sequence predicts a trained token, which tokens, and whose."""
    places, tokens, owned, offset = [], [], [], 0
    for example, owner in zip(examples, owners, strict=True):
        at = example.trained.nonzero().squeeze(1)
        places.append(at + (offset - 1))
        tokens.append(example.token_ids[at])
        owned.append(torch.full_like(at, owner))
        offset += len(example.token_ids)
    return torch.cat(places), torch.cat(tokens), torch.cat(owned)

"""Rows of one length over any base that transformers has: each is a row of the model's batch.

With one length there is no padding, and so no mask that a family would read in its own way.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch

from trainer_svc.engine.generation.rows import Part
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.lora import Span
from trainer_svc.engine.step.product import LayerUpdate

_ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""How far a last hidden state may be off by the order of summation, of its norm."""
_PROBE = (9, 4)
"""Tokens that the probe reads at once, and then one by one."""


class CachedRows:
    """See Rows. The past is the model's own cache, whatever its layers keep in it.

    Layers with a state along the sequence take one token at a time once they have one, so tokens
    are followed one by one; a prefix is only for bases without such layers.
    """

    def __init__(self, bank: AdapterBank, part: Part) -> None:
        self._bank = bank
        self._part = part
        self._rows = len(part.suffixes)
        self._cache: Any = None

    @property
    def step_tokens(self) -> int:
        """See Rows."""
        return self._rows

    def begin(self) -> Generator[None, None, torch.Tensor]:
        """See Rows."""
        if self._part.prefix:
            self._read(torch.tensor([list(self._part.prefix)]))
            self._cache.batch_repeat_interleave(self._rows)
            yield
        return self._read(_stacked(self._part.suffixes))[:, -1]

    def follow(self, token_ids: torch.Tensor, *, remember: bool = True) -> torch.Tensor:
        """See Rows."""
        before = None if remember else copy.deepcopy(self._cache)
        states = [self._read(column) for column in torch.split(token_ids, 1, dim=1)]
        if before is not None:
            self._cache = before
        return torch.cat(states, 1)

    def keep(self, rows: Sequence[int]) -> None:
        """See Rows."""
        self._rows = len(rows)
        self._cache.reorder_cache(torch.tensor(rows, device=self._bank.base.device))

    def _read(self, token_ids: torch.Tensor) -> torch.Tensor:
        inputs = {"past_key_values": self._cache, "use_cache": True}
        output = _read(self._bank, token_ids, self._part.updates, inputs)
        self._cache = output.past_key_values
        states: torch.Tensor = output.last_hidden_state
        return states


class UncachedRows:
    """See Rows. Every pass reads all tokens again: right for any causal model."""

    def __init__(self, bank: AdapterBank, part: Part) -> None:
        self._bank = bank
        self._part = part
        self._ids = _stacked([[*part.prefix, *suffix] for suffix in part.suffixes])

    @property
    def step_tokens(self) -> int:
        """See Rows."""
        return self._ids.numel()

    def begin(self) -> Generator[None, None, torch.Tensor]:
        """See Rows."""
        yield from ()
        return self._read(self._ids)[:, -1]

    def follow(self, token_ids: torch.Tensor, *, remember: bool = True) -> torch.Tensor:
        """See Rows."""
        # Positions of some families depend on the longest row: never read more than is asked for.
        states, ids = [], self._ids
        for column in torch.split(token_ids, 1, dim=1):
            ids = torch.cat((ids, column), 1)
            states.append(self._read(ids)[:, -1:])
        if remember:
            self._ids = ids
        return torch.cat(states, 1)

    def keep(self, rows: Sequence[int]) -> None:
        """See Rows."""
        self._ids = self._ids[torch.tensor(rows)]

    def _read(self, token_ids: torch.Tensor) -> torch.Tensor:
        output = _read(self._bank, token_ids, self._part.updates, {"use_cache": False})
        states: torch.Tensor = output.last_hidden_state
        return states


def remembers(bank: AdapterBank) -> bool:
    """Ask the base whether its cache gives what it computes without one."""
    generator = torch.Generator().manual_seed(0)
    known, following = _PROBE
    ids = torch.randint(bank.base.token_ids, (2, known + following), generator=generator)
    part = Part(None, (), ids[:, :known].tolist(), known + following)
    rows = CachedRows(bank, part)
    for _ in rows.begin():
        pass
    found = rows.follow(ids[:, known:]).float()
    whole = _read(bank, ids, None, {"use_cache": False}).last_hidden_state[:, known:].float()
    error = float((found - whole).norm() / whole.norm())
    return error <= _ALLOWED[bank.base.compute_dtype]


def _read(
    bank: AdapterBank,
    token_ids: torch.Tensor,
    updates: Mapping[int, LayerUpdate] | None,
    inputs: Mapping[str, Any],
) -> Any:
    spans = [] if updates is None else [Span(0, token_ids.numel(), updates, None)]
    return bank.read({"input_ids": token_ids.to(bank.base.device), **inputs}, spans)


def _stacked(sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.tensor([list(sequence) for sequence in sequences])

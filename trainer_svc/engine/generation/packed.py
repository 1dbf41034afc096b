"""Rows of unequal length over a base whose attention is ours: their tokens are one sequence.

Rows of several jobs read in one pass. Keys and values of a prefix that prompts share are held once
for all of them. Every other computation is training's own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from trainer_svc.engine.attention import attend
from trainer_svc.engine.generation.masked import KeysValues, attend_masked
from trainer_svc.engine.generation.rows import Part
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.lora import Span
from trainer_svc.engine.step.product import LayerUpdate

_HIDDEN = float("-inf")
_MASKED = 2**26
"""Places that a pass looks at, of all its tokens together: 256 MiB of what is hidden."""


class Past:
    """Keys and values of rows, by layer; those of the prefix that all of them share apart."""

    def __init__(self, rows: int, tokens: int, prefix: Past | None = None) -> None:
        self.rows = rows
        self.tokens: int = tokens
        """Room for each row."""
        self.before: int = 0 if prefix is None else prefix.tokens
        """Tokens of the prefix."""
        self._prefix = prefix
        self.layers: dict[int, KeysValues] = {}
        """Those that have been written to, by number."""

    def write(self, layer: int, first: int, at: torch.Tensor, new: KeysValues) -> KeysValues:
        """Put tokens of some rows to their places; return all of the layer's."""
        if layer not in self.layers:
            self.layers[layer] = KeysValues.blank(new, self.rows, self.tokens)
        self.layers[layer].write(first, at, new)
        return self.layers[layer]

    def of_prefix(self, layer: int) -> KeysValues | None:
        """Return what the rows share: one row."""
        return None if self._prefix is None else self._prefix.layers[layer]

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all other rows."""
        self.rows = len(rows)
        for layer, held in self.layers.items():
            self.layers[layer] = held.taken(rows)


@dataclass(frozen=True)
class Reading:
    """Some rows of one past in a pass: which, and where their new tokens go."""

    past: Past
    first: int
    """The first row."""
    at: torch.Tensor
    """[rows, tokens], on the device: places after the prefix."""
    seen: int
    """Places up to the last of them."""
    new: bool
    """Whether nothing comes before."""
    hidden: torch.Tensor
    """See attend_masked."""

    @staticmethod
    def of(
        past: Past, first: int, starts: Sequence[int], tokens: int, device: torch.device
    ) -> Reading:
        """Let rows from `first` on read as many tokens each, behind `starts` of their own."""
        start = torch.tensor(starts, device=device).unsqueeze(1)
        at = start + torch.arange(tokens, device=device)
        seen = max(starts) + tokens
        later = torch.arange(seen, device=device) > at.unsqueeze(2)
        hidden = torch.zeros(later.shape, device=device).masked_fill_(later, _HIDDEN)
        new = not past.before and not any(starts)
        return Reading(past, first, at, seen, new, hidden)

    @property
    def size(self) -> int:
        """Tokens of the pass."""
        return self.at.numel()

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """See trainer_svc.engine.attention.Remembered."""
        rows, tokens = self.at.shape
        shape = (rows, tokens, key.shape[1], key.shape[2])
        new = KeysValues(*(each.view(shape).permute(2, 0, 1, 3) for each in (key, value)))
        held = self.past.write(layer, self.first, self.at, new)
        if self.new:
            return attend(query, key, value, [tokens] * rows, scaling)
        own = held.cut(slice(self.first, self.first + rows), self.seen)
        query = query.view(rows, tokens, *query.shape[1:])
        prefix = self.past.of_prefix(layer)
        return attend_masked(query, own, prefix, self.hidden, scaling).flatten(0, 1)


class Pass:
    """Readings one after another in one sequence; what attention asks for, see `Remembered`."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """See trainer_svc.engine.attention.Remembered."""
        sizes = [reading.size for reading in self._readings]
        pieces = zip(*(torch.split(each, sizes) for each in (query, key, value)), strict=True)
        attended = [
            reading.attend(layer, q, k, v, scaling)
            for reading, (q, k, v) in zip(self._readings, pieces, strict=True)
        ]
        return attended[0] if len(attended) == 1 else torch.cat(attended)


class _Held:
    """A part's rows, and how much of each has been read."""

    def __init__(self, part: Part, prefix: Past | None) -> None:
        self.part = part
        self.past = Past(len(part.suffixes), part.room, prefix)
        self.lengths = [len(suffix) for suffix in part.suffixes]


class PackedRows:
    """See Rows. Parts of one job stand side by side."""

    def __init__(self, bank: AdapterBank, parts: Sequence[Part], micro_tokens: int) -> None:
        self._bank = bank
        self._device = bank.base.device
        self._parts = parts
        self._micro_tokens = micro_tokens
        self._held: list[_Held] = []

    @property
    def step_tokens(self) -> int:
        """See Rows."""
        return sum(held.past.rows for held in self._held)

    def begin(self) -> Generator[None, None, torch.Tensor]:
        """See Rows."""
        states = []
        for part in self._parts:
            prefix = None
            if part.prefix:
                prefix = Past(1, len(part.prefix))
                yield from self._fill(prefix, [part.prefix], part.updates)
                yield
            held = _Held(part, prefix)
            self._held.append(held)
            states.append((yield from self._fill(held.past, part.suffixes, part.updates)))
        return torch.cat(states)

    def follow(self, token_ids: torch.Tensor, *, remember: bool = True) -> torch.Tensor:
        """See Rows."""
        tokens, readings, first = token_ids.shape[1], [], 0
        for held in self._held:
            # A row that has ended but is not forgotten yet stays where its room ends.
            starts = [min(length, held.past.tokens - tokens) for length in held.lengths]
            readings.append(
                (Reading.of(held.past, 0, starts, tokens, self._device), held.part.updates)
            )
            if remember:
                held.lengths = [start + tokens for start in starts]
            first += held.past.rows
        return self._read(token_ids, readings).view(first, tokens, -1)

    def keep(self, rows: Sequence[int]) -> None:
        """See Rows."""
        ends = [0, *accumulate(held.past.rows for held in self._held)]
        for held, first, last in zip(self._held, ends, ends[1:], strict=False):
            mine = [row - first for row in rows if first <= row < last]
            held.past.keep(torch.tensor(mine, dtype=torch.long, device=self._device))
            held.lengths = [held.lengths[row] for row in mine]
        self._held = [held for held in self._held if held.past.rows]

    def _fill(
        self,
        past: Past,
        sequences: Sequence[Sequence[int]],
        updates: Mapping[int, LayerUpdate] | None,
    ) -> Generator[None, None, torch.Tensor]:
        """Read sequences, shorter ones first, some rows at a time; return their last states.

        A yield stands between two passes. Rows of a pass are filled up to the longest: what
        comes after a row's end is not seen, and is overwritten by what the row reads next.
        """
        states = []
        for first, last in _blocks([len(each) for each in sequences], self._micro_tokens):
            longest = len(sequences[last - 1])
            ids = torch.zeros(last - first, longest, dtype=torch.long)
            for row, sequence in enumerate(sequences[first:last]):
                ids[row, : len(sequence)] = torch.as_tensor(sequence)
            ends = [len(each) - 1 for each in sequences[first:last]]
            found: list[torch.Tensor | None] = [None] * len(ends)
            most = min(self._micro_tokens, max(1, _MASKED // (len(ids) * longest)))
            for start in range(0, longest, most):
                if first or start:
                    yield
                chunk = ids[:, start : start + most]
                reading = Reading.of(
                    past, first, [start] * len(chunk), chunk.shape[1], self._device
                )
                read = self._read(chunk, [(reading, updates)]).view(*chunk.shape, -1)
                for row, end in enumerate(ends):
                    if start <= end < start + chunk.shape[1]:
                        found[row] = read[row, end - start]
            states += [each for each in found if each is not None]
        return torch.stack(states)

    def _read(
        self,
        token_ids: torch.Tensor,
        readings: Sequence[tuple[Reading, Mapping[int, LayerUpdate] | None]],
    ) -> torch.Tensor:
        positions = [(reading.past.before + reading.at).flatten() for reading, _ in readings]
        spans, start = [], 0
        for reading, updates in readings:
            if updates is not None:
                spans.append(Span(start, start + reading.size, updates, None))
            start += reading.size
        inputs = {
            "input_ids": token_ids.reshape(1, -1).to(self._device),
            "position_ids": torch.cat(positions).unsqueeze(0),
            "use_cache": False,
            "remembered": Pass([reading for reading, _ in readings]),
        }
        states: torch.Tensor = self._bank.read(inputs, spans).last_hidden_state[0]
        return states


def _blocks(lengths: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Cut rows, shorter ones first, into blocks of `limit` tokens at most, or of one row."""
    blocks, first = [], 0
    for row in range(1, len(lengths) + 1):
        if row == len(lengths) or (row + 1 - first) * lengths[row] > limit:
            blocks.append((first, row))
            first = row
    return blocks

"""Which prompts are read together, in which lane, and what is done where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TypeVar

import torch

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.attention import PACKED
from trainer_svc.engine.failures import is_out_of_memory
from trainer_svc.engine.generation.packed import PackedRows
from trainer_svc.engine.generation.plain import CachedRows, UncachedRows, remembers
from trainer_svc.engine.generation.prompts import Alike, Prompt, alike
from trainer_svc.engine.generation.rows import Part, Rows
from trainer_svc.engine.probe import rope_types
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.product import LayerUpdate
from trainer_svc.protocol import OUT_OF_MEMORY

ROWS = 512
"""Rows of a batch, unless told."""
CACHE_BYTES = 2**30
"""Keys and values that a lane's rows and their prefixes may take; one row always may."""

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How much a lane reads at once."""

    micro_tokens: int
    """Tokens of a pass, but that one row of a base without our attention is read whole."""
    rows: int
    """Rows of a batch."""

    @staticmethod
    def of(bank: AdapterBank, micro_tokens: int, rows: int) -> Limits:
        """Let all lanes together read `micro_tokens` at once."""
        return Limits(max(1, micro_tokens // bank.lanes), rows)


class Reader:
    """Reads prompts over one bank, as fits its base. For one call of `generate` or `score`."""

    def __init__(self, bank: AdapterBank, prompts: Sequence[Prompt], limits: Limits) -> None:
        self.bank = bank
        self._prompts = prompts
        self.limits = limits
        base = bank.base
        config = base.decoder.config
        self._packed = base.packs and config._attn_implementation == PACKED  # noqa: SLF001
        self._cached = self._packed or ("longrope" not in rope_types(config) and remembers(bank))
        jobs = {prompt.job for prompt in prompts if prompt.job is not None}
        self._updates: Mapping[str | None, Mapping[int, LayerUpdate]] = {
            job: bank.updates(job) for job in jobs
        }
        self._token_bytes = _token_bytes(config)

    def run(
        self, work: Callable[[Rows, Sequence[int]], Generator[None, None, Mapping[int, T]]]
    ) -> Generator[None, None, dict[int, T]]:
        """Do `work` for batches of all prompts; return what it returns, by the prompt's number.

        It gets a batch's rows, none begun, and the numbers of its prompts in the order of the rows.
        Each piece is one of each lane's.
        """
        batches = self._batches(range(len(self._prompts)), self.limits.rows)
        strands = [
            self._strand(batches[lane :: self.bank.lanes], work)
            for lane in range(min(self.bank.lanes, len(batches)))
        ]
        done: dict[int, T] = {}
        while strands:
            pieces = self.bank.abreast([partial(_advanced, strand) for strand in strands])
            for piece in pieces:
                done |= piece or {}
            strands = [s for s, piece in zip(strands, pieces, strict=True) if piece is None]
            if strands:
                yield
        return done

    def _strand(
        self,
        batches: Sequence[Sequence[Alike]],
        work: Callable[[Rows, Sequence[int]], Generator[None, None, Mapping[int, T]]],
    ) -> Generator[None, None, dict[int, T]]:
        """Do one batch after another; one without memory again, in halves."""
        done: dict[int, T] = {}
        left = list(reversed(batches))
        while left:
            batch = left.pop()
            numbers = [number for group in batch for number in group.members]
            found = yield from _unless_full(work(self._rows(batch), numbers))
            if found is None:
                left += reversed(self._halves(numbers))
            else:
                done |= found
            if left:
                yield
        return done

    def _halves(self, numbers: Sequence[int]) -> Sequence[Sequence[Alike]]:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(numbers) == 1:
            raise self._out_of_memory(self._prompts[numbers[0]])
        return self._batches(numbers, -(-len(numbers) // 2))

    def _rows(self, batch: Sequence[Alike]) -> Rows:
        parts = [self._part(group) for group in batch]
        if self._packed:
            return PackedRows(self.bank, parts, self.limits.micro_tokens)
        (part,) = parts
        return CachedRows(self.bank, part) if self._cached else UncachedRows(self.bank, part)

    def _part(self, group: Alike) -> Part:
        prompts = [self._prompts[number] for number in group.members]
        return Part(
            updates=self._updates.get(group.job),
            prefix=prompts[0].token_ids[: group.prefix],
            suffixes=[prompt.token_ids[group.prefix :] for prompt in prompts],
            room=self._room(group),
        )

    def _room(self, group: Alike) -> int:
        """Return how many tokens the longest of the group's rows may have after its prefix."""
        prompts = [self._prompts[number] for number in group.members]
        return max(len(p.token_ids) + p.max_new_tokens for p in prompts) - group.prefix

    def _batches(self, numbers: Sequence[int], most: int) -> Sequence[Sequence[Alike]]:
        """Cut prompts into batches of `most` rows at most, about as many for each lane."""
        groups = alike(self._prompts, numbers, share=self._cached and self.bank.base.packs)
        each_lane = -(-len(numbers) // (most * self.bank.lanes))
        most = -(-len(numbers) // (each_lane * self.bank.lanes))
        if not self._packed:
            return [[each] for group in groups for each in self._of_one_length(group, most)]
        batches: list[list[Alike]] = [[]]
        rows, size = 0, 0
        for group in groups:
            row_size = self._room(group) * self._token_bytes
            shared = group.prefix * self._token_bytes
            left = list(group.members)
            while left:
                fitting = min(most - rows, (CACHE_BYTES - size - shared) // row_size)
                if fitting < 1 and rows:
                    batches.append([])
                    rows, size = 0, 0
                    continue
                members, left = left[: max(fitting, 1)], left[max(fitting, 1) :]
                batches[-1].append(replace(group, members=members))
                rows, size = rows + len(members), size + shared + len(members) * row_size
        return batches

    def _of_one_length(self, group: Alike, most: int) -> list[Alike]:
        found = []
        for length, members in groupby(group.members, self._length):
            same = list(members)
            # Each row has the prefix in its own cache.
            room = self._room(group) + group.prefix
            rows = min(most, CACHE_BYTES // (room * self._token_bytes))
            rows = max(1, min(rows, self.limits.micro_tokens // max(1, length - group.prefix)))
            found += [
                replace(group, members=same[at : at + rows]) for at in range(0, len(same), rows)
            ]
        return found

    def _length(self, number: int) -> int:
        return len(self._prompts[number].token_ids)

    def _out_of_memory(self, prompt: Prompt) -> FailedPrecondition:
        tokens, new = len(prompt.token_ids), prompt.max_new_tokens
        return FailedPrecondition(
            f"a prompt of {tokens} tokens and up to {new} more do not fit in the device's memory, "
            "not even by themselves; lower max_sequence_length",
            reason=OUT_OF_MEMORY,
            tokens=tokens + new,
        )


def _advanced(strand: Generator[None, None, dict[int, T]]) -> dict[int, T] | None:
    """Run one piece; return what the strand returns if it was the last."""
    try:
        next(strand)
    except StopIteration as stop:
        result: dict[int, T] = stop.value
        return result
    return None


def _unless_full(work: Generator[None, None, T]) -> Generator[None, None, T | None]:
    """Return None if the memory does not suffice."""
    try:
        return (yield from work)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None


def _token_bytes(config: object) -> int:
    """Return about what a token's keys and values take, in bytes."""
    heads = int(getattr(config, "num_attention_heads", 1))
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads  # type: ignore[attr-defined]
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    layers = int(config.num_hidden_layers)  # type: ignore[attr-defined]
    return 8 * layers * key_heads * int(width)

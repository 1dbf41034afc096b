"""Records become the sequences that are trained: one for a record, wherever serving allows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.data.encoding import Encoder
from trainer_svc.engine.data.template import PROMPT_COMPLETION, Renderer, Turn
from trainer_svc.engine.data.token_files import Piece

_BATCH_CHARS = 2**16
"""Text that is tokenised at once: enough to hide the cost of a call, little in memory."""

_PROMPTS_CHARS = 2**25
"""Prompts of one record before its last, together: the template renders each from the start, so
that they grow with the square of the turns. 100 turns in 128,000 tokens are about as much."""

Encoded = tuple[list[int], list[int]]
"""The ids of a turn's prompt and of its answer."""
Item = TypeVar("Item")


class _Known(NamedTuple):
    """A turn's ids; its prompt is the first `shared` ids of the last turn's, and `prompt`."""

    shared: int
    prompt: list[int]
    answer: list[int]


class Sequencer:
    """Turns records of one format into sequences of at most `limit` tokens.

    `check` is called between the turns of a record and may raise.
    """

    def __init__(
        self,
        tokenizer: Any,
        record_format: str,
        limit: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        plain = record_format == PROMPT_COMPLETION
        self._renderer = Renderer(tokenizer, record_format)
        self._encoder = Encoder(tokenizer, special_tokens=plain)
        end = tokenizer.eos_token_id
        self._end = [end] if plain and end is not None else []
        self._limit = limit
        self._check = check

    def sequences(
        self, records: Iterable[tuple[int, Mapping[str, Any]]]
    ) -> Iterator[tuple[int, list[list[Piece]] | None]]:
        """Yield each record's line and its sequences; None if one of them is too long.

        A record is one sequence if that holds every prompt as serving tokenises it, otherwise one
        for each of its answers. Raises what Renderer.turns and Encoder.encode raise, and
        FailedPrecondition for a record whose turns are too many for its length (INVALID_RECORD).
        """
        started = ((line, self._renderer.turns(record, line)) for line, record in records)
        # The last turn comes first. It is the longest: what is too long is not rendered any more.
        lasts = ((next(turns), turns) for _, turns in started)
        for batch in batches(lasts, lambda item: _chars(item[0]), _BATCH_CHARS):
            encoded = self._encode([last for last, _ in batch])
            for (last, earlier), ids in zip(batch, encoded, strict=True):
                yield last.line, self._sequences(last, earlier, ids)

    def _sequences(
        self, last: Turn, earlier: Iterator[Turn], ids: Encoded
    ) -> list[list[Piece]] | None:
        if _length(ids) > self._limit:
            return None
        whole, answer = ids
        turns = [_Known(len(whole), [], answer)]
        for batch in batches(
            self._tails(last, earlier, whole), lambda item: _chars(item[1]), _BATCH_CHARS
        ):
            encoded = self._encode([tail for _, tail in batch])
            turns += [_Known(shared, *ids) for (shared, _), ids in zip(batch, encoded, strict=True)]
        if (
            max(shared + len(prompt) + len(answer) for shared, prompt, answer in turns)
            > self._limit
        ):
            return None
        turns.reverse()
        return _joined(turns, whole) or [
            [(whole[:shared] + prompt, False), (answer, True)] for shared, prompt, answer in turns
        ]

    def _tails(
        self, last: Turn, earlier: Iterator[Turn], whole: list[int]
    ) -> Iterator[tuple[int, Turn]]:
        """Yield each earlier turn less its prompt's beginning, and how many ids that has.

        They are the first of `whole`, the last prompt's ids.
        """
        cuts = None
        chars = 0
        for turn in earlier:
            self._check()
            chars += len(turn.prompt)
            if chars > _PROMPTS_CHARS:
                raise FailedPrecondition(
                    f"line {turn.line} of the dataset cannot be trained on: the prompts of its "
                    f"turns have {chars} characters together, more than {_PROMPTS_CHARS}; "
                    "cut it into shorter records",
                    reason="INVALID_RECORD",
                    line=turn.line,
                )
            cuts = cuts or self._encoder.cuts(last.prompt, whole)
            start, shared = cuts.last(turn.prompt)
            yield shared, replace(turn, prompt=turn.prompt[start:])

    def _encode(self, turns: Sequence[Turn]) -> list[Encoded]:
        return [(prompt, answer + self._end) for prompt, answer in self._encoder.encode(turns)]


def batches(items: Iterable[Item], size: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Cut `items` into lists that reach `most` with their last item; the last may be smaller."""
    batch: list[Item] = []
    room = most
    for item in items:
        batch.append(item)
        room -= size(item)
        if room <= 0:
            yield batch
            batch, room = [], most
    if batch:
        yield batch


def _joined(turns: Sequence[_Known], whole: list[int]) -> list[list[Piece]] | None:
    """Return one sequence for all turns, or None if serving would tokenise a prompt otherwise.

    `whole` is the last prompt. A template may render earlier turns differently from the last one,
    and a tokenizer may mark a word's start where an answer goes on without.
    """
    pieces: list[Piece] = []
    ids = whole + turns[-1].answer
    end = 0
    for shared, prompt, answer in turns:
        start = shared + len(prompt)
        if start < end or ids[shared : start + len(answer)] != prompt + answer:
            return None
        pieces += [(ids[end:start], False), (answer, True)]
        end = start + len(answer)
    return [pieces]


def _length(turn: Encoded) -> int:
    return len(turn[0]) + len(turn[1])


def _chars(turn: Turn) -> int:
    return len(turn.prompt) + len(turn.answer)

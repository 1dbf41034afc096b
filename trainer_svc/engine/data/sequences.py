"""Records become the sequences that are trained: one for a record, wherever serving allows it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.data.encoding import Encoder
from trainer_svc.engine.data.template import PLAIN, TEXT, Renderer, Turn, Turns
from trainer_svc.engine.data.token_files import Piece

_BATCH_CHARS = 2**16
"""Text that is tokenised at once: enough to hide the cost of a call, little in memory."""

_SILENT_CHARS = 2**10
"""What a record without a trained turn counts, so that a file of them is read in batches too."""

_PROMPTS_CHARS = 2**25
"""Prompts of one record before its last, together: the template renders each from the start, so
that they grow with the square of the turns. 100 turns in 128,000 tokens are about as much."""

Encoded = tuple[list[int], list[int]]
"""The ids of a turn's prompt and of its answer."""
Item = TypeVar("Item")


class Sequenced(NamedTuple):
    """The sequences that the record of a line gives; none if there is nothing to train in it.

    `too_long`: one has more tokens than allowed. Then there are none, or what is left of them.
    """

    line: int
    sequences: list[list[Piece]]
    too_long: bool


class _Known(NamedTuple):
    """A turn's ids; its prompt is the first `shared` ids of the last turn's, and `prompt`."""

    shared: int
    prompt: list[int]
    answer: list[int]


class Sequencer:
    """Turns records of one format into sequences of at most `limit` tokens.

    A record that is too long is left out, or with `truncate` loses what is past the limit. `check`
    is called between the turns of a record and may raise.
    """

    def __init__(
        self,
        tokenizer: Any,
        record_format: str,
        limit: int,
        check: Callable[[], None] = lambda: None,
        *,
        truncate: bool = False,
    ) -> None:
        plain = record_format in PLAIN
        self._renderer = Renderer(tokenizer, record_format)
        self._encoder = encoder = Encoder(tokenizer, special_tokens=plain)
        self._encoded = encoder.encode_texts if record_format == TEXT else encoder.encode
        end = tokenizer.eos_token_id
        self._end = [end] if plain and end is not None else []
        self._limit = limit
        self._check = check
        self._truncate = truncate

    def sequences(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Sequenced]:
        """Yield what becomes of each record.

        A record is one sequence if that holds every prompt as serving tokenises it, otherwise one
        for each of its answers. Raises what Turns and Encoder.encode raise, and FailedPrecondition
        for a record whose turns are too many for its length (INVALID_RECORD).
        """
        started = ((line, self._renderer.turns(record, line)) for line, record in records)
        # The last turn comes first. It is the longest: what is too long is not rendered any more.
        lasts = ((line, turns, turns[-1:]) for line, turns in started)
        read = ((line, turns, last[0] if last else None) for line, turns, last in lasts)
        for batch in batches(read, lambda item: _chars(item[2]), _BATCH_CHARS):
            encoded = iter(self._encode([last for _, _, last in batch if last is not None]))
            for line, turns, last in batch:
                if last is None:
                    yield Sequenced(line, [], too_long=False)
                else:
                    yield self._of_record(line, turns, last, next(encoded))

    def _of_record(self, line: int, turns: Turns, last: Turn, ids: Encoded) -> Sequenced:
        if _length(ids) <= self._limit:
            found = self._whole(turns, last, ids)
            if all(_size(pieces) <= self._limit for pieces in found):
                return Sequenced(line, [one for one in found if _trains(one)], too_long=False)
        if not self._truncate:
            return Sequenced(line, [], too_long=True)
        cut = [_cut(pieces, self._limit) for pieces in self._beginning(turns)]
        return Sequenced(line, [one for one in cut if _trains(one)], too_long=True)

    def _beginning(self, turns: Turns) -> list[list[Piece]]:
        """Return the sequences of the first turns, all whose prompts are below the limit."""

        def prompt_size(place: int) -> int:
            self._check()
            ((prompt, _),) = self._encode([turns[place]])
            return len(prompt)

        # A prompt holds all that is before it: the sizes grow from turn to turn.
        count = bisect_left(range(len(turns)), self._limit, key=prompt_size)
        if not count:
            return []
        last = turns[count - 1]
        (ids,) = self._encode([last])
        return self._whole(turns[:count], last, ids)

    def _whole(self, turns: Turns, last: Turn, ids: Encoded) -> list[list[Piece]]:
        """Return the sequences of `turns`, however long; `last` is the last one, and has `ids`."""
        whole, answer = ids
        known = [_Known(len(whole), [], answer)]
        earlier = (turns[place] for place in reversed(range(len(turns) - 1)))
        for batch in batches(
            self._tails(last, earlier, whole), lambda item: _chars(item[1]), _BATCH_CHARS
        ):
            encoded = self._encode([tail for _, tail in batch])
            known += [_Known(shared, *ids) for (shared, _), ids in zip(batch, encoded, strict=True)]
        known.reverse()
        return _joined(known, whole) or [
            [(whole[:shared] + prompt, False), (answer, True)] for shared, prompt, answer in known
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
        if not turns:
            return []
        return [(prompt, answer + self._end) for prompt, answer in self._encoded(turns)]


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


def _chars(turn: Turn | None) -> int:
    return _SILENT_CHARS if turn is None else len(turn.prompt) + len(turn.answer)


def _size(pieces: Sequence[Piece]) -> int:
    return sum(len(ids) for ids, _ in pieces)


def _cut(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    """Return the first `limit` tokens of a sequence."""
    kept: list[Piece] = []
    for ids, trained in pieces:
        kept.append((ids[:limit], trained))
        limit -= len(kept[-1][0])
    return kept


def _trains(pieces: Sequence[Piece]) -> bool:
    """Tell whether a token is trained: the first never is, for nothing is before it."""
    masks = [(len(ids), trained) for ids, trained in pieces if ids]
    return sum(size for size, trained in masks if trained) > (masks[0][1] if masks else 0)

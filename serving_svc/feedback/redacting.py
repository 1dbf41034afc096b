"""`python -m serving_svc.feedback.redacting <fd>`: rids records of personal data, for its parent.

The inherited socket brings what makes the scanner, with the mode, and then what is asked, one at a
time. Each message has one answer: Done with the record as it may be stored, None if that takes more
pieces, or the error that it ended with. It has neither torch nor vLLM nor gRPC.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tailorbird.aside import stand_aside
from tailorbird.errors import TailorbirdError
from tailorbird.feedback import FeedbackRecord
from tailorbird.personal_data.modes import Mode
from tailorbird.personal_data.record_texts import RecordTexts
from tailorbird.pieces import Done, some

if TYPE_CHECKING:
    from tailorbird.personal_data.scanner import Scanner

_T = TypeVar("_T")
_TEXTS = {"messages", "tools", "prompt", "answer", "correction", "labels"}
_PIECE_SECONDS = 0.1

_Work = Generator[None, None, FeedbackRecord]


class Asked(NamedTuple):
    """A piece of a record's work: `record` comes with its first."""

    number: int
    record: FeedbackRecord | None = None
    given_up: tuple[int, ...] = ()
    """Records that nobody waits for any more."""


def main(fd: int) -> None:
    """Answer until the other end closes, or the scanner cannot be made."""
    stand_aside(fd)
    connection = Connection(fd)
    with suppress(EOFError, OSError):
        make, mode = connection.recv()
        scanner = _tried(make)
        if isinstance(scanner, Exception):
            connection.send(scanner)
            return
        connection.send(None)
        works: dict[int, _Work] = {}
        while True:
            connection.send(_answer(works, partial(_redacting, scanner, mode), connection.recv()))


def _answer(
    works: dict[int, _Work], begin: Callable[[FeedbackRecord], _Work], asked: Asked
) -> Done[FeedbackRecord] | Exception | None:
    for number in asked.given_up:
        works.pop(number, None)
    if asked.record is not None:
        works[asked.number] = begin(asked.record)
    answer = _tried(partial(some, works[asked.number], _PIECE_SECONDS))
    if answer is not None:
        del works[asked.number]
    return answer


def _tried(work: Callable[[], _T]) -> _T | Exception:
    try:
        return work()
    except TailorbirdError as error:
        return error
    except Exception as error:
        # Its text may hold what was read.
        at = traceback.extract_tb(error.__traceback__)[-1]
        return RuntimeError(f"{type(error).__name__} in {at.name}, {at.filename}:{at.lineno}")


def _redacting(scanner: Scanner, mode: Mode, record: FeedbackRecord) -> _Work:
    from tailorbird.personal_data.replacing import Replacer

    content = record.model_dump(mode="json", include=_TEXTS)
    texts = RecordTexts(content)
    # By its name, so that the same request again has the same stand-ins.
    replaced, counts = yield from Replacer(scanner, mode, record.name).replacing(texts.all)
    texts.put(replaced)
    redactions = {str(kind): count for kind, count in sorted(counts.items())}
    stored = {**record.model_dump(), **content, "redactions": redactions}
    return FeedbackRecord.model_validate(stored)


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""`python -m serving_svc.feedback.redacting <fd>`: rids records of personal data, for its parent.

The inherited socket brings what makes the scanner, with the mode, and then records, one at a time.
Each message has one answer: the record as it may be stored, or the error that it ended with. It has
neither torch nor vLLM nor gRPC.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, TypeVar

from tailorbird.aside import stand_aside
from tailorbird.errors import TailorbirdError
from tailorbird.feedback import FeedbackRecord
from tailorbird.personal_data.modes import Mode
from tailorbird.personal_data.record_texts import RecordTexts

if TYPE_CHECKING:
    from tailorbird.personal_data.scanner import Scanner

_T = TypeVar("_T")
_TEXTS = {"messages", "tools", "prompt", "answer", "correction", "labels"}


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
        while True:
            connection.send(_tried(partial(_redacted, scanner, mode, connection.recv())))


def _tried(work: Callable[[], _T]) -> _T | Exception:
    try:
        return work()
    except TailorbirdError as error:
        return error
    except Exception as error:
        # Its text may hold what was read.
        at = traceback.extract_tb(error.__traceback__)[-1]
        return RuntimeError(f"{type(error).__name__} in {at.name}, {at.filename}:{at.lineno}")


def _redacted(scanner: Scanner, mode: Mode, record: FeedbackRecord) -> FeedbackRecord:
    from tailorbird.personal_data.replacing import Replacer

    content = record.model_dump(mode="json", include=_TEXTS)
    texts = RecordTexts(content)
    # By its name, so that the same request again has the same stand-ins.
    replaced, counts = Replacer(scanner, mode, record.name).replace(texts.all)
    texts.put(replaced)
    redactions = {str(kind): count for kind, count in sorted(counts.items())}
    stored = {**record.model_dump(), **content, "redactions": redactions}
    return FeedbackRecord.model_validate(stored)


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""A file's lines as its bytes come, in bounded memory, and an account of the bad ones. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tailorbird.errors import InvalidRecord, InvalidRecords

_MOST_TOLD = 100


class Lines:
    """Cuts bytes into numbered lines and holds at most one, of `max_bytes`.

    A longer line is told as None once it ends; its bytes are not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._number = 0
        self._rest: bytes | None = b""

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield each line that ends in `chunk` and its number, counted from 1."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._keep(part)
            yield self._line()
        self._keep(rest)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield what is left after the last end of a line, if there is something."""
        if self._rest != b"":
            yield self._line()

    def _keep(self, part: bytes) -> None:
        if self._rest is not None:
            fits = len(self._rest) + len(part) <= self._max_bytes
            self._rest = self._rest + part if fits else None

    def _line(self) -> tuple[int, bytes | None]:
        self._number += 1
        data, self._rest = self._rest, b""
        return self._number, data


class BadLines:
    """What is wrong with a file's lines: how many, and the first 100."""

    def __init__(self) -> None:
        self._count = 0
        self._first: list[InvalidRecord] = []

    def add(self, error: InvalidRecord) -> None:
        """Take one more; they come in the order of their lines."""
        self._count += 1
        if len(self._first) < _MOST_TOLD:
            # What it was raised by would keep the line's bytes.
            self._first.append(error.with_traceback(None))
            error.__cause__ = error.__context__ = None

    def check(self, records: int, file: str = "") -> None:
        """Raise InvalidRecords if there are some among the file's `records`.

        `file`, what the file seems to be, is told if more than half are bad.
        """
        if self._count:
            told = file if 2 * self._count > records else ""
            raise InvalidRecords(self._first, self._count, records, told)

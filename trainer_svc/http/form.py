"""A form with one file, read while it comes: no more of the file is in memory than one piece."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from tailorbird.errors import InvalidArgument

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# What it says of a form is said to whoever sent it.
logging.getLogger("python_multipart").disabled = True
logging.getLogger("python_multipart.multipart").disabled = True

_FILE = "file"
_MAX_VALUE_BYTES = 1024
_MAX_HEAD_BYTES = 8192
"""A part's, whose names and values are held until it ends."""
_MAX_FILENAME = 255

Check = Callable[[str, str | None], None]
"""Raises InvalidArgument for a field's name with a value that is not taken; None: not yet known."""


class FileForm:
    """Reads multipart/form-data: first `begin`, then `content`.

    `check` is asked of each field but the file: by its name before its value is read, and then with
    it. The other fields may come before the file or after it. Raises InvalidArgument
    (NOT_FORM_TYPE, MALFORMED_REQUEST) and what `check` and `body` do.
    """

    def __init__(self, content_type: str, body: AsyncIterator[bytes], check: Check) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidArgument(
                "content-type",
                f"{content_type[:80]!r} is not multipart/form-data with a boundary",
                reason="NOT_FORM_TYPE",
            )
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks)
        except FormParserError as error:
            raise _malformed("its boundary is too long") from error
        self._body = body
        self._check = check
        self._header = (bytearray(), bytearray())
        self._head_bytes = 0
        self._disposition = b""
        self._field = ""
        self._value = bytearray()
        self._pieces: list[bytes] = []
        self._seen: set[str] = set()
        self._filename = ""
        self._ended = False

    async def begin(self) -> str:
        """Read up to the file, and return its name: one line, no path, at most 255 characters."""
        while _FILE not in self._seen:
            if not await self._read():
                raise InvalidArgument(_FILE, "it is needed, and not given")
        return self._filename

    async def content(self) -> AsyncIterator[bytes]:
        """Yield what is in the file, and then read the rest of the form."""
        more = True
        while more:
            pieces, self._pieces = self._pieces, []
            for piece in pieces:
                yield piece
            more = await self._read()
        if not self._ended:
            raise _malformed("it ends before its last boundary")

    @property
    def seen(self) -> frozenset[str]:
        """The fields that have come."""
        return frozenset(self._seen)

    async def _read(self) -> bool:
        chunk = await anext(self._body, b"")
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from error
        return bool(chunk)

    def _part_begin(self) -> None:
        self._head_bytes = 0
        self._disposition = b""
        self._value = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_part(0, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_part(1, data[start:end])

    def _header_part(self, which: int, data: bytes) -> None:
        self._head_bytes += len(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise _malformed(f"a part's head has more than {_MAX_HEAD_BYTES} bytes")
        self._header[which].extend(data)

    def _header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._field = options.get(b"name", b"").decode(errors="replace")
        if self._field in self._seen:
            raise InvalidArgument(self._field, "it is given twice")
        if self._field == _FILE:
            self._filename = _plain_name(options.get(b"filename", b"").decode(errors="replace"))
        else:
            self._check(self._field, None)
        self._seen.add(self._field)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field == _FILE:
            self._pieces.append(data[start:end])
            return
        self._value.extend(data[start:end])
        if len(self._value) > _MAX_VALUE_BYTES:
            raise InvalidArgument(self._field, f"it has more than {_MAX_VALUE_BYTES} bytes")

    def _part_end(self) -> None:
        if self._field != _FILE:
            self._check(self._field, self._value.decode(errors="replace"))

    def _end(self) -> None:
        self._ended = True


def _plain_name(told: str) -> str:
    name = told.replace("\\", "/").rpartition("/")[2]
    return "".join(each for each in name if each.isprintable())[-_MAX_FILENAME:].strip()


def _malformed(problem: str) -> InvalidArgument:
    return InvalidArgument("body", f"it is no such form: {problem}", reason="MALFORMED_REQUEST")

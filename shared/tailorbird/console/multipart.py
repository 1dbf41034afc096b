"""A form with one file, read as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tailorbird.errors import InvalidArgument

_MAX_FIELD_BYTES = 4096
_MAX_FIELDS = 16
"""Ours has two. What a form holds before its file is kept, and nobody is asked yet who sends it."""
_CHUNK_BYTES = 2**20


class FileForm:
    """A multipart form whose fields come before its file, `file`."""

    def __init__(self, content_type: str, file: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidArgument(file, "the form must be sent as multipart/form-data")
        self.fields: dict[str, str] = {}
        self._file = file
        self._name = b""
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._field = bytearray()
        self._chunk = bytearray()
        self._parts = 0
        self._has_file = False
        self._is_over = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_begin": self._header_begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
            )
        except FormParserError as error:
            raise InvalidArgument(file, f"the form cannot be read: {error}") from error

    async def chunks(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the file's bytes, about a mebibyte at a time; `fields` is complete before.

        Raises InvalidArgument for a body that is no such form, or that breaks off.
        """
        try:
            async for part in body:
                self._parser.write(part)
                if len(self._chunk) >= _CHUNK_BYTES:
                    yield self._taken()
            self._parser.finalize()
        except FormParserError as error:
            raise InvalidArgument(self._file, "what was sent is not a whole form") from error
        if not self._is_over:
            raise InvalidArgument(self._file, "what was sent is not a whole form")
        if self._chunk:
            yield self._taken()

    def _taken(self) -> bytes:
        taken = bytes(self._chunk)
        self._chunk.clear()
        return taken

    def _begin(self) -> None:
        self._headers = {}
        self._parts += 1
        if self._parts > _MAX_FIELDS:
            raise InvalidArgument(self._file, f"the form has more than {_MAX_FIELDS} parts")

    def _header_begin(self) -> None:
        self._header = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end].lower()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._headers[self._header] = self._headers.get(self._header, b"") + data[start:end]

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"")
        self._field.clear()
        if self._name == self._file.encode():
            if self._has_file:
                raise InvalidArgument(self._file, "send one file: the form has two")
            self._has_file = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._file.encode():
            self._chunk += data[start:end]
            return
        self._field += data[start:end]
        if len(self._field) > _MAX_FIELD_BYTES:
            raise InvalidArgument(self._shown, f"it is longer than {_MAX_FIELD_BYTES} bytes")

    def _end(self) -> None:
        if self._name != self._file.encode():
            self.fields[self._shown] = self._field.decode(errors="replace")

    def _finish(self) -> None:
        self._is_over = True

    @property
    def _shown(self) -> str:
        return self._name.decode(errors="replace")[:64]

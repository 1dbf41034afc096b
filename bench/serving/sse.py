"""HTTP/1.1 responses with server-sent events, read as they come and no more than needed."""

from __future__ import annotations

_HEAD_END = b"\r\n\r\n"
_EVENT = b"data: "


class ResponseReader:
    """Reads one response; make a new one for the next response of the connection.

    Understands chunked bodies and those with a Content-Length, which are all that uvicorn sends.
    """

    def __init__(self) -> None:
        self.status = 0
        """HTTP status; 0 before the head has come."""
        self.done = False
        """Whether the whole response has come."""
        self.body = bytearray()
        """What has come of the body and was no whole event."""
        self._raw = bytearray()
        self._chunked = False
        self._left = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take what came; return the payloads of the events that are now whole."""
        self._raw += data
        if not self.status and not self._read_head():
            return []
        if self._chunked:
            self._read_chunks()
        else:
            self._read_plain()
        return self._events()

    def _read_head(self) -> bool:
        end = self._raw.find(_HEAD_END)
        if end < 0:
            return False
        head = bytes(self._raw[:end]).lower().split(b"\r\n")
        del self._raw[: end + len(_HEAD_END)]
        self.status = int(head[0].split(b" ", 2)[1])
        headers = dict(line.split(b":", 1) for line in head[1:])
        self._chunked = b"chunked" in headers.get(b"transfer-encoding", b"")
        self._left = int(headers.get(b"content-length", b"0"))
        return True

    def _read_plain(self) -> None:
        taken = self._raw[: self._left]
        self._left -= len(taken)
        self.body += taken
        del self._raw[: len(taken)]
        self.done = self._left == 0

    def _read_chunks(self) -> None:
        position, raw = 0, self._raw
        while not self.done:
            line_end = raw.find(b"\r\n", position)
            if line_end < 0:
                break
            size = int(raw[position:line_end], 16)
            end = line_end + 2 + size
            if len(raw) < end + 2:
                break
            self.body += raw[line_end + 2 : end]
            self.done = size == 0
            position = end + 2
        del raw[:position]

    def _events(self) -> list[bytes]:
        if self.status != 200 or b"\n\n" not in self.body:
            return []
        *whole, rest = bytes(self.body).split(b"\n\n")
        self.body[:] = rest
        return [event.removeprefix(_EVENT) for event in whole]

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bench.serving.sse import ResponseReader

_EVENTS = [b'{"choices":[{"text":"a"}]}', b'{"choices":[],"usage":{}}', b"[DONE]"]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _response() -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: x\r\n\r\n"
    return head + b"".join(_chunk(b"data: " + event + b"\n\n") for event in _EVENTS) + _chunk(b"")


@given(st.lists(st.integers(0, len(_response())), max_size=8))
def test_events_come_however_the_bytes_are_cut(cuts: list[int]) -> None:
    response, reader = _response(), ResponseReader()
    edges = [0, *sorted(cuts), len(response)]

    found = []
    for start, end in itertools.pairwise(edges):
        assert not (reader.done and start < len(response))
        found += reader.feed(response[start:end])

    assert found == _EVENTS
    assert reader.done
    assert reader.status == 200


def test_an_event_may_span_two_chunks() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    assert reader.feed(_chunk(b"data: on")) == []
    assert reader.feed(_chunk(b"e\n\n")) == [b"one"]
    assert not reader.done


def test_an_error_has_its_body() -> None:
    reader = ResponseReader()

    found = [reader.feed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nno\n\nsuch")]
    ended = [reader.done]
    found.append(reader.feed(b" a"))
    ended.append(reader.done)

    assert found == [[], []]
    assert ended == [False, True]
    assert (reader.status, bytes(reader.body)) == (404, b"no\n\nsuch ")

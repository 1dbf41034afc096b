"""A form read piece by piece, wherever the pieces end."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator

import pytest

from tailorbird.errors import InvalidArgument
from trainer_svc.http.form import FileForm

KIND = 'multipart/form-data; boundary="b"'
PURPOSE = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
END = b"\r\n--b--\r\n"


def file_head(filename: str) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    return head.encode()


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def read(body: AsyncIterator[bytes], told: list[tuple[str, str | None]] | None = None) -> FileForm:
    return FileForm(KIND, body, lambda *field: None if told is None else told.append(field))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
async def test_it_is_the_same_wherever_its_pieces_end(size: int) -> None:
    # What looks like a boundary is one only at a line's beginning, and whole.
    data = b'{"a": "--b"}\r\n--\r\n--a\r\n{}\n'
    told: list[tuple[str, str | None]] = []
    form = read(in_pieces(PURPOSE + file_head("a.jsonl") + data + END, size), told)
    assert await form.begin() == "a.jsonl"
    assert b"".join([piece async for piece in form.content()]) == data
    assert told == [("purpose", None), ("purpose", "fine-tune")]
    assert form.seen == {"purpose", "file"}


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("/etc/passwd", "passwd"),
        ("..\\..\\a.jsonl", "a.jsonl"),
        ("é\u202etxt.exe\x07", "étxt.exe"),
        (" a b ", "a b"),
        ("x" * 300 + ".jsonl", "x" * 249 + ".jsonl"),
        ("", ""),
    ],
)
async def test_a_file_s_name_is_one_line_and_no_path(told: str, name: str) -> None:
    form = read(in_pieces(file_head(told) + b"{}" + END, 50))
    assert await form.begin() == name


async def test_no_file_is_held() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield PURPOSE + file_head("a.jsonl")
        for _ in range(1000):
            yield b"x" * 2**16
        yield END

    form = read(endless())
    tracemalloc.start()
    try:
        await form.begin()
        size = 0
        async for piece in form.content():
            size += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 1000 * 2**16
    assert peak < 2**20


@pytest.mark.parametrize(
    "endless",
    [
        b"Content-Disposition: form-data; x=" + b"y" * 2**16,
        b"z" * 2**16,
        b"A: b\r\n" * 2**14,
        # Each is short enough, and they are few.
        (b"A: " + b"b" * 3000 + b"\r\n") * 4 + b"\r\n" * 100,
    ],
)
async def test_a_head_without_end_is_refused(endless: bytes) -> None:
    read_so_far = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read_so_far
        yield b"--b\r\n"
        async for piece in in_pieces(endless, 100):
            read_so_far += len(piece)
            yield piece

    with pytest.raises(InvalidArgument) as caught:
        await read(body()).begin()
    assert caught.value.reason == "MALFORMED_REQUEST"
    assert read_so_far < 10_000

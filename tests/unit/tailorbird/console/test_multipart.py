"""What a form may be, and what of it is kept before anybody is asked who sends it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tailorbird.console.multipart import FileForm
from tailorbird.errors import InvalidArgument

KIND = "multipart/form-data; boundary=b"
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
END = b"\r\n--b--\r\n"


def field(name: str, value: str) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return f"{head}{value}\r\n".encode()


async def read(body: bytes, step: int = 2**16) -> tuple[dict[str, str], bytes]:
    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(body), step):
            yield body[at : at + step]

    form = FileForm(KIND, "file")
    content = b"".join([chunk async for chunk in form.chunks(parts())])
    return form.fields, content


@pytest.mark.parametrize("step", [1, 7, 2**16])
async def test_fields_and_a_file_are_read_however_they_arrive(step: int) -> None:
    content = b"one\r\n--b\r\r\n-- two"
    fields, found = await read(field("dataset_id", "chats") + FILE + content + END, step)
    assert (fields, found) == ({"dataset_id": "chats"}, content)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(field("f", "v" * 4097) + FILE + END, "longer than 4096", id="long field"),
        pytest.param(
            b"".join(field(f"f{one}", "v") for one in range(17)), "more than 16", id="many fields"
        ),
        pytest.param(b"--b\r\n\r\nx\r\n" * 17, "more than 16", id="many without a name"),
        pytest.param(FILE + b"x\r\n" + FILE + b"y" + END, "two", id="two files"),
        pytest.param(FILE + b"x", "not a whole form", id="cut"),
        pytest.param(b"--b\r\nX: " + b"x" * 2**20, "not a whole form", id="long header"),
        pytest.param(b"--b\r\n" + b"X: y\r\n" * 99, "not a whole form", id="many headers"),
    ],
)
async def test_what_no_page_of_ours_sends_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        await read(body)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data", f"multipart/form-data; boundary={'b' * 999}"]
)
def test_what_is_no_such_form_is_named(kind: str) -> None:
    with pytest.raises(InvalidArgument, match="form"):
        FileForm(kind, "file")

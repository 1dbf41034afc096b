"""/v1/files on a real socket: forms as clients send them, and as they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tailorbird.names import TenantName
from tailorbird.object_store import ObstoreStore
from tests.integration.dataset_world import ACME, MOST_BYTES, World, get, lines, world
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.stored import META

DATA = lines("yes", "no")
PURPOSE = {"purpose": "fine-tune"}
BOUNDARY = "cut-here"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {}) as one:
        yield one


def part(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


FILE = part("file", DATA, '; filename="chats.jsonl"')


async def send(
    trainer: World, data: bytes = DATA, filename: str = "chats.jsonl", caller: str = "acme"
) -> httpx.Response:
    async with trainer.client(caller) as client:
        return await client.post("/files", data=PURPOSE, files={"file": (filename, data)})


async def post(trainer: World, body: bytes, kind: str = FORM) -> httpx.Response:
    async with trainer.client() as client:
        return await client.post("/files", content=body, headers={"content-type": kind})


async def stored(trainer: World, filename: str = "chats.jsonl", **more: Any) -> str:
    told = await send(trainer, filename=filename, **more)
    assert told.status_code == 200, told.text
    id_: str = told.json()["id"]
    return id_


def error(told: httpx.Response) -> tuple[int, str, str | None]:
    found = told.json()["error"]
    return told.status_code, found["code"], found["param"]


async def nothing_is_left(trainer: World, folder: Path) -> bool:
    return not await trainer.keys() and not list((folder / "spool").iterdir())


async def test_a_file_is_a_dataset(trainer: World) -> None:
    told = (await send(trainer)).json()
    assert told.pop("created_at") > 1_700_000_000
    id_ = told.pop("id")
    assert told == {
        "object": "file",
        "bytes": len(DATA),
        "expires_at": None,
        "filename": "chats.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
    }
    assert id_.startswith("file-chats-")
    dataset = (await trainer.call("GetDataset", get(id_.removeprefix("file-")))).dataset
    assert dataset.record_count == 2
    async with trainer.client() as client:
        assert (await client.get(f"/files/{id_}")).json()["id"] == id_
        content = await client.get(f"/files/{id_}/content")
        assert content.content == DATA
        assert content.headers["x-content-type-options"] == "nosniff"
        assert content.headers["content-disposition"].startswith("attachment;")
    # The same again is the same file; under another name it is another one.
    assert await stored(trainer) == id_
    assert await stored(trainer, filename="other.jsonl") != id_
    handled = {"route": "/v1/files", "code": "200"}
    assert trainer.registry.get_sample_value("tailorbird_http_handled_total", handled) == 3
    counted = trainer.registry.get_sample_value("tailorbird_trainer_dataset_bytes_total")
    assert counted == 3 * len(DATA)


async def test_what_grpc_uploaded_is_a_file_too(trainer: World) -> None:
    await trainer.upload("voices", DATA)
    async with trainer.client() as client:
        found = (await client.get("/files/file-voices")).json()
    assert (found["filename"], found["bytes"]) == ("voices.jsonl", len(DATA))


async def test_files_are_listed_in_pages(trainer: World) -> None:
    ids = sorted([await stored(trainer, filename=f"{name}.jsonl") for name in "abc"])
    async with trainer.client() as client:

        async def listed(**query: Any) -> tuple[list[str], bool]:
            told = await client.get("/files", params=query)
            assert told.status_code == 200, told.text
            return [one["id"] for one in told.json()["data"]], told.json()["has_more"]

        assert await listed() == (ids, False)
        assert await listed(limit=2) == (ids[:2], True)
        assert await listed(limit=2, after=ids[1], purpose="fine-tune") == (ids[2:], False)
        assert await listed(purpose="batch") == ([], False)
        for query, param in (
            ({"limit": "0"}, "limit"),
            ({"limit": "1001"}, "limit"),
            ({"limit": "+2"}, "limit"),
            ({"after": "x"}, "after"),
            ({"order": "asc"}, "order"),
            ({"sort": "asc"}, "sort"),
        ):
            told = await client.get("/files", params=query)
            assert (told.status_code, told.json()["error"]["param"]) == (400, param)
    async with trainer.client("other") as client:
        assert (await client.get("/files")).json()["data"] == []


async def test_a_page_of_files_that_cannot_be_read_is_passed_over(trainer: World) -> None:
    first, second = sorted([await stored(trainer, filename=f"{name}.jsonl") for name in "ab"])
    await trainer.store.put(f"{ACME}/datasets/{first.removeprefix('file-')}/{META}", b"{")
    async with trainer.client() as client:
        told = (await client.get("/files", params={"limit": 1})).json()
    assert ([one["id"] for one in told["data"]], told["has_more"]) == ([second], False)


async def test_a_file_is_deleted_unless_a_job_needs_it(trainer: World) -> None:
    id_ = await stored(trainer)
    job = await trainer.create(f"{ACME}/datasets/{id_.removeprefix('file-')}")
    async with trainer.client() as client:
        refused = await client.delete(f"/files/{id_}")
        assert error(refused)[:2] == (400, "dataset_in_use")
        await trainer.ended(job.name)
        told = await client.delete(f"/files/{id_}")
        assert told.json() == {"id": id_, "object": "file", "deleted": True}
        assert (await client.get(f"/files/{id_}")).status_code == 404
    assert await trainer.ids() == []


async def test_another_tenant_s_file_is_as_one_that_is_not_there(trainer: World) -> None:
    id_ = await stored(trainer)
    async with trainer.client("other") as client:
        for path, method in (
            (f"/files/{id_}", "GET"),
            (f"/files/{id_}/content", "GET"),
            (f"/files/{id_}", "DELETE"),
        ):
            theirs = await client.request(method, path)
            none = await client.request(method, path.replace("file-chats", "file-other"))
            assert theirs.status_code == none.status_code == 404
            said, nothing = theirs.json()["error"], none.json()["error"]
            assert said["message"].replace("chats", "other") == nothing["message"]
        for id_of_none in ("x", "file-", "file-UPPER", "file-" + "x" * 64, "file-..%2F..%2Fx"):
            assert (await client.get(f"/files/{id_of_none}")).status_code == 404
    async with trainer.client() as client:
        assert (await client.get(f"/files/{id_}")).status_code == 200


async def test_a_caller_of_several_tenants_names_one(trainer: World) -> None:
    async with trainer.client("acme+other") as client:

        async def upload(**headers: str) -> httpx.Response:
            files = {"file": ("chats.jsonl", DATA)}
            return await client.post("/files", data=PURPOSE, files=files, headers=headers)

        assert error(await upload())[:2] == (400, "tenant_needed")
        assert (await upload(**{"openai-project": "other"})).status_code == 200
        assert (await upload(**{"x-tailorbird-tenant": "globex"})).status_code == 404
    assert await trainer.ids() == []
    async with trainer.client("nobody") as client:
        assert (await client.get("/files")).status_code == 401


async def test_fields_may_follow_the_file(trainer: World) -> None:
    told = await post(trainer, form(FILE, part("purpose", b"fine-tune")))
    assert told.status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (form(FILE), "invalid_argument", "purpose"),
        (form(part("purpose", b"fine-tune")), "invalid_argument", "file"),
        (form(part("purpose", b"batch"), FILE), "unsupported", "purpose"),
        (form(FILE, part("purpose", b"batch")), "unsupported", "purpose"),
        (form(part("purpose", b"x" * 2000), FILE), "invalid_argument", "purpose"),
        (form(FILE, part("purpose", b"fine-tune"), FILE), "invalid_argument", "file"),
        (form(part("expires_after[anchor]", b"x"), FILE), "unsupported", "expires_after"),
        (form(part("colour", b"red"), FILE), "unknown_field", "colour"),
        (form(part("purpose", b"fine-tune"), FILE)[:-10], "malformed_request", "body"),
        (part("purpose", b"fine-tune") + FILE, "malformed_request", "body"),
        (b"no form at all", "malformed_request", "body"),
        (form(part("file", DATA, "; x=" + "y" * 100_000)), "malformed_request", "body"),
        (b"", "invalid_argument", "file"),
    ],
)
async def test_a_form_that_is_wrong_says_where_and_leaves_nothing(
    trainer: World, tmp_path: Path, body: bytes, code: str, param: str
) -> None:
    assert error(await post(trainer, body)) == (400, code, param)
    assert await nothing_is_left(trainer, tmp_path)


async def test_a_body_of_another_type_is_refused(trainer: World) -> None:
    for kind in ("application/json", "multipart/form-data", f"text/plain; boundary={BOUNDARY}"):
        told = await post(trainer, form(FILE), kind)
        assert error(told) == (415, "not_form_type", "content-type")
    told = await post(trainer, form(FILE), "multipart/form-data; boundary=" + "x" * 5000)
    assert error(told)[1] == "malformed_request"


async def test_a_broken_file_names_its_lines(trainer: World, tmp_path: Path) -> None:
    data = DATA + b'{"prompt": "x"}\n' + b"{no json\n"
    told = await send(trainer, data)
    status, _, param = error(told)
    assert (status, param) == (400, "line 3")
    message = told.json()["error"]["message"]
    assert message.startswith("2 bad lines of 4: line 3: ")
    assert (await send(trainer, b"")).json()["error"]["param"] == "file"
    assert await nothing_is_left(trainer, tmp_path)


async def test_a_file_that_is_too_large_is_refused(trainer: World, tmp_path: Path) -> None:
    told = await send(trainer, lines("yes") * (MOST_BYTES // 30))
    assert error(told) == (413, "body_too_large", "body")
    # By a little, so that a form's other fields might have been it; and without saying how much.
    line = lines("yes")
    told = await send(trainer, line * (MOST_BYTES // len(line) + 1))
    assert error(told) == (413, "dataset_too_large", "file")
    assert await nothing_is_left(trainer, tmp_path)

    async def untold() -> AsyncIterator[bytes]:
        yield part("purpose", b"fine-tune") + FILE[:-2]
        for _ in range(300):
            yield line * 300

    async with trainer.client() as client:
        told = await client.post("/files", content=untold(), headers={"content-type": FORM})
    assert error(told)[0] == 413
    assert await nothing_is_left(trainer, tmp_path)


async def test_an_upload_cut_in_the_middle_leaves_nothing(
    trainer: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    receive = trainer.datasets.receive_file

    async def watched(tenant: TenantName, filename: str, chunks: AsyncIterator[bytes]) -> Dataset:
        async def told() -> AsyncIterator[bytes]:
            async for chunk in chunks:
                yield chunk
                begun.set()

        try:
            return await receive(tenant, filename, told())
        finally:
            ended.set()

    monkeypatch.setattr(trainer.datasets, "receive_file", watched)
    body = form(part("purpose", b"fine-tune"), FILE)
    reader, writer = await asyncio.open_connection("127.0.0.1", trainer.http.port)
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer acme\r\n"
        f"Content-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body[:-40])
    async with asyncio.timeout(20):
        await begun.wait()
        assert list((tmp_path / "spool").iterdir())
        writer.close()
        await ended.wait()
    assert await nothing_is_left(trainer, tmp_path)
    assert await reader.read() == b""
    # Its place among the tenant's uploads is free again.
    assert (await send(trainer)).status_code == 200
    await trainer.http.stop(5)
    gone = {"route": "/v1/files", "code": "499"}
    assert trainer.registry.get_sample_value("tailorbird_http_handled_total", gone) == 1


async def test_content_that_is_gone_is_answered_as_an_error(trainer: World) -> None:
    id_ = await stored(trainer)
    dataset = id_.removeprefix("file-")
    for key in await trainer.keys(f"{ACME}/datasets/{dataset}"):
        if key.endswith(".jsonl"):
            await trainer.store.delete(key)
    async with trainer.client() as client:
        assert (await client.get(f"/files/{id_}/content")).status_code in (404, 500)

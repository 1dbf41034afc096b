"""Datasets by URI over a real socket: from files, and from a real S3 server."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from moto.server import ThreadedMotoServer

from tailorbird.beneath import open_beneath
from tailorbird.object_store import ObstoreStore
from tailorbird.tuning.v1 import dataset_pb2, job_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.dataset_world import (
    ACME,
    FORMAT,
    MOST_BYTES,
    World,
    lines,
    name,
    token,
    world,
)
from trainer_svc.datasets import sources

DATA = lines("yes", "no")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    put(f"{endpoint}/acme-data")
    put(f"{endpoint}/acme-data-evil")
    put(f"{endpoint}/acme-data/train/chats.jsonl", DATA)
    put(f"{endpoint}/acme-data/out.jsonl", DATA)
    put(f"{endpoint}/acme-data-evil/train/chats.jsonl", DATA)
    put(f"{endpoint}/acme-data/train/large.jsonl", lines("yes") * 40_000)
    yield endpoint
    server.stop()


def put(url: str, data: bytes = b"") -> None:
    head = {"Content-Type": "application/jsonl"}
    urllib.request.urlopen(urllib.request.Request(url, data, head, method="PUT")).close()


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "drop" / "acme"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
async def trainer(
    object_store: ObstoreStore, tmp_path: Path, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    prefixes = {
        "acme": ("s3://acme-data/train/", "s3://acme-data/gone/"),
        "other": (f"file://{tmp_path}/other/",),
        "*": (f"file://{drop.parent}/{{tenant}}/",),
    }
    async with world(object_store, tmp_path, prefixes) as found:
        yield found


@pytest.fixture
def at_s3(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)


def asked(uri: str, **fields: Any) -> pb.ImportDatasetRequest:
    return pb.ImportDatasetRequest(**{"parent": ACME, "dataset_id": "a", "uri": uri, **fields})


async def test_an_object_becomes_what_its_upload_would(trainer: World, at_s3: None) -> None:
    uploaded = await trainer.upload("uploaded", DATA)
    made = await trainer.import_uri("s3://acme-data/train/chats.jsonl")
    assert (made.name, made.source_uri) == (name("imported"), "s3://acme-data/train/chats.jsonl")
    for field in ("sha256", "source_sha256", "record_count", "format", "report"):
        assert getattr(made, field) == getattr(uploaded, field)
    assert uploaded.source_uri == ""
    assert (await trainer.call("GetDataset", pb.GetDatasetRequest(name=made.name))).dataset == made
    assert await trainer.store.get(f"{made.name}/data-{made.sha256}.jsonl") == DATA
    assert await trainer.import_uri("s3://acme-data/train/chats.jsonl") == made


async def test_a_file_becomes_a_dataset(trainer: World, drop: Path) -> None:
    (drop / "more").mkdir()
    (drop / "more" / "chats.jsonl").write_bytes(DATA)
    made = await trainer.import_uri(f"file://{drop}/more/chats.jsonl", format=FORMAT)
    assert made.record_count == 2
    assert os.listdir(drop.parent.parent / "spool") == []  # noqa: PTH208


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "chats",
        "s3://acme-data",
        "s3://acme-data/out.jsonl",
        "s3://acme-data/train",
        "s3://acme-data/train/",
        "s3://acme-data/train/chats.jsonl/",
        "s3://acme-data/train//chats.jsonl",
        "s3://acme-data/train/../out.jsonl",
        "s3://acme-data/train/./chats.jsonl",
        "s3://acme-data/train/%2e%2e/out.jsonl",
        "s3://acme-data/train/chats.jsonl?versionId=1",
        "s3://acme-data/train/chats.jsonl#x",
        "s3://acme-data/train/chats.jsonl\0",
        "s3://acme-data/train/chats.jsonl\n",
        "s3://acme-data/train/a b.jsonl",
        "s3://acme-data/Train/chats.jsonl",
        "S3://acme-data/train/chats.jsonl",
        "s3://ACME-data/train/chats.jsonl",
        "s3://acme-data-evil/train/chats.jsonl",
        "s3://key:secret@acme-data/train/chats.jsonl",
        "s3://acme-data:80/train/chats.jsonl",
        "gs://acme-data/train/chats.jsonl",
        "http://127.0.0.1/train/chats.jsonl",
        "file://localhost/etc/passwd",
        "file:///etc/passwd",
        "s3://acme-data/train/" + "x" * 1024,
    ],
)
async def test_what_is_not_under_a_prefix_is_not_read(
    trainer: World, at_s3: None, uri: str
) -> None:
    code, reason, told, message = await trainer.refused("ImportDataset", asked(uri))
    assert (code, reason, told["field"]) == ("INVALID_ARGUMENT", "URI_NOT_ALLOWED", "uri")
    # What is allowed, to whomever, is nobody's to know.
    assert "acme-data/train/" not in message.replace(repr(uri[:200]), "")
    assert await trainer.ids() == []


async def test_a_prefix_is_its_tenant_s_alone(trainer: World, drop: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "other", drop.parent / "other", drop.parent / "acme-2"):
        folder.mkdir()
        (folder / "chats.jsonl").write_bytes(DATA)
        _, reason, _, _ = await trainer.refused(
            "ImportDataset", asked(f"file://{folder}/chats.jsonl")
        )
        assert reason == "URI_NOT_ALLOWED"
    for folder in (tmp_path / "other", drop.parent / "other"):
        uri = f"file://{folder}/chats.jsonl"
        request = asked(uri, parent="tenants/other", dataset_id=folder.parent.name[:4].strip("_-"))
        assert (await trainer.call("ImportDataset", request, "other")).dataset.source_uri == uri


async def test_no_link_leads_out_of_a_prefix(trainer: World, drop: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "chats.jsonl").write_bytes(DATA)
    (drop / "link.jsonl").symlink_to(outside / "chats.jsonl")
    (drop / "linked").symlink_to(outside)
    (drop / "folder").mkdir()
    os.mkfifo(drop / "pipe")
    for path in ("link.jsonl", "linked/chats.jsonl", "folder", "pipe", "pipe/x"):
        code, reason, _, _ = await trainer.refused("ImportDataset", asked(f"file://{drop}/{path}"))
        assert (code, reason) == ("INVALID_ARGUMENT", "URI_NOT_ALLOWED"), path


@pytest.mark.parametrize(
    "uri", ["s3://acme-data/train/none.jsonl", "s3://acme-data/gone/x", "none.jsonl", "no/ne"]
)
async def test_what_is_not_there_is_not_found(
    trainer: World, drop: Path, at_s3: None, uri: str
) -> None:
    uri = uri if "://" in uri else f"file://{drop}/{uri}"
    code, reason, told, message = await trainer.refused("ImportDataset", asked(uri))
    assert (code, reason, told["field"]) == ("NOT_FOUND", "OBJECT_NOT_FOUND", "uri")
    assert message == f"{uri} does not exist"


async def test_a_name_too_long_for_a_file_is_not_found(trainer: World, drop: Path) -> None:
    code, reason, told, _ = await trainer.refused(
        "ImportDataset", asked(f"file://{drop}/{'n' * 300}.jsonl")
    )
    assert (code, reason, told["field"]) == ("NOT_FOUND", "OBJECT_NOT_FOUND", "uri")


async def test_a_store_that_is_away_is_unavailable(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    code, reason, told, _ = await trainer.refused(
        "ImportDataset", asked("s3://acme-data/train/chats.jsonl")
    )
    assert (code, reason, told["field"]) == ("UNAVAILABLE", "SOURCE_UNAVAILABLE", "uri")
    assert await trainer.ids() == []


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """An S3 server that sends these answers, and then closes each connection."""
    given: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(given[0])

        thread = threading.Thread(target=serve)
        thread.start()
        yield given
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_a_reading_that_breaks_off_stores_nothing(
    trainer: World, answers: list[bytes]
) -> None:
    answers.append(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\nETag: x\r\n"
        b"Last-Modified: Mon, 23 Nov 2026 03:00:00 GMT\r\n\r\n" + DATA
    )
    code, reason, told, message = await trainer.refused(
        "ImportDataset", asked("s3://acme-data/train/chats.jsonl")
    )
    assert (code, reason, told["field"]) == ("UNAVAILABLE", "SOURCE_UNAVAILABLE", "uri")
    assert "could not be read to its end" in message
    assert await trainer.keys() == []


async def test_what_the_trainer_may_not_read_is_said(trainer: World, answers: list[bytes]) -> None:
    answers.append(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    code, reason, told, message = await trainer.refused(
        "ImportDataset", asked("s3://acme-data/train/chats.jsonl")
    )
    assert (code, reason) == ("FAILED_PRECONDITION", "SOURCE_REFUSED")
    assert told["field"] == "uri"
    assert "test" not in message


async def test_a_file_that_changes_while_it_is_read_is_told(
    trainer: World, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drop / "chats.jsonl"
    path.write_bytes(DATA)
    state = sources._state
    monkeypatch.setattr(sources, "_state", lambda file: (*state(file), path.write_bytes(DATA * 2)))
    code, reason, _, _ = await trainer.refused("ImportDataset", asked(f"file://{path}"))
    assert (code, reason) == ("ABORTED", "SOURCE_CHANGED")
    assert await trainer.ids() == []


async def test_too_large_a_file_is_read_no_further(trainer: World, at_s3: None) -> None:
    code, reason, told, message = await trainer.refused(
        "ImportDataset", asked("s3://acme-data/train/large.jsonl")
    )
    assert (code, reason, told["field"]) == ("INVALID_ARGUMENT", "DATASET_TOO_LARGE", "uri")
    assert told["limit"] == str(MOST_BYTES)
    assert f"at most {MOST_BYTES} are accepted" in message


@pytest.mark.parametrize(
    ("data", "fields", "field", "text"),
    [
        (b"", {}, "uri", "the file has no records"),
        (DATA + b"nope\n", {}, "chunk", "1 bad line of 3: line 3: not JSON"),
        (
            DATA,
            {"format": dataset_pb2.DATASET_FORMAT_TEXT},
            "chunk",
            "the format asked for is text",
        ),
        (DATA, {"format": 9}, "format", "9 is not a format"),
        (DATA, {"personal_data": 99}, "personal_data", "99 is not a mode"),
        (DATA, {"dataset_id": "../x"}, "dataset_id", "'../x' is not an id"),
        (DATA, {"dataset_id": ""}, "dataset_id", "'' is not an id"),
        (DATA, {"parent": "acme"}, "parent", "tenants/{tenant}"),
    ],
)
async def test_a_wrong_import_is_refused_as_an_upload(
    trainer: World, drop: Path, data: bytes, fields: dict[str, Any], field: str, text: str
) -> None:
    (drop / "x.jsonl").write_bytes(data)
    request = asked(f"file://{drop}/x.jsonl", **fields)
    code, _, told, message = await trainer.refused("ImportDataset", request)
    assert (code, told["field"]) == ("INVALID_ARGUMENT", field)
    assert text in message


async def test_other_content_under_a_taken_id_is_refused(trainer: World, drop: Path) -> None:
    (drop / "x.jsonl").write_bytes(DATA)
    await trainer.import_uri(f"file://{drop}/x.jsonl")
    (drop / "x.jsonl").write_bytes(DATA * 2)
    request = asked(f"file://{drop}/x.jsonl", dataset_id="imported")
    assert (await trainer.refused("ImportDataset", request))[:2] == (
        "ALREADY_EXISTS",
        "DATASET_EXISTS",
    )


async def test_a_job_s_uris_become_datasets(trainer: World, drop: Path, at_s3: None) -> None:
    (drop / "Held_Out.v2.jsonl").write_bytes(lines("held"))
    train, held = "s3://acme-data/train/chats.jsonl", f"file://{drop}/Held_Out.v2.jsonl"
    job = await trainer.create(train, validation_dataset=held)
    names = (job.spec.training_dataset, job.spec.validation_dataset)
    found = [
        (await trainer.call("GetDataset", pb.GetDatasetRequest(name=one))).dataset for one in names
    ]
    assert [each.source_uri for each in found] == [train, held]
    assert names[0].startswith(name("chats-"))
    assert names[1].startswith(name("held-out-"))
    async with asyncio.timeout(20):
        await trainer.worker.held.wait()
    assert trainer.worker.assignment.training.name == names[0]
    request = pb.DeleteDatasetRequest(name=names[0])
    assert (await trainer.refused("DeleteDataset", request))[1] == "DATASET_IN_USE"


async def test_a_repeated_request_is_the_same_job_whatever_became_of_the_content(
    trainer: World, drop: Path
) -> None:
    path = drop / "chats.jsonl"
    path.write_bytes(DATA)
    first = await trainer.create(f"file://{path}", request_id="r")
    path.write_bytes(DATA * 2)
    assert (await trainer.create(f"file://{path}", request_id="r")).name == first.name
    path.unlink()
    again = await trainer.create(f"file://{path}", request_id="r")
    assert again.spec.training_dataset == first.spec.training_dataset
    assert len(await trainer.ids()) == 1


async def test_the_same_content_is_one_dataset_and_other_content_another(
    trainer: World, drop: Path
) -> None:
    path = drop / "chats.jsonl"
    path.write_bytes(DATA)
    first = (await trainer.create(f"file://{path}")).spec.training_dataset
    assert (await trainer.create(f"file://{path}")).spec.training_dataset == first
    path.write_bytes(DATA * 2)
    other = (await trainer.create(f"file://{path}")).spec.training_dataset
    assert other != first
    assert await trainer.ids() == sorted(each.rpartition("/")[2] for each in (first, other))


async def test_a_sweep_s_uri_becomes_a_dataset(trainer: World, drop: Path) -> None:
    (drop / "chats.jsonl").write_bytes(lines(*map(str, range(60))))
    spec = job_pb2.JobSpec(
        training_dataset=f"file://{drop}/chats.jsonl", adapter=f"{ACME}/adapters/voice"
    )
    asked_ = sweep_pb2.Sweep(spec=spec, space=sweep_pb2.SearchSpace(ranks=[8, 16]))
    request = pb.CreateSweepRequest(parent=ACME, sweep=asked_, request_id="r")
    sweep = (await trainer.call("CreateSweep", request)).sweep
    assert sweep.spec.training_dataset.startswith(name("chats-"))
    (drop / "chats.jsonl").unlink()
    assert (await trainer.call("CreateSweep", request)).sweep.name == sweep.name
    request.request_id = "s"
    code, _, told, _ = await trainer.refused("CreateSweep", request)
    assert (code, told["field"]) == ("NOT_FOUND", "sweep.spec.training_dataset")
    request.sweep.spec.training_dataset = "s3://elsewhere/chats.jsonl"
    _, reason, told, _ = await trainer.refused("CreateSweep", request)
    assert (reason, told["field"]) == ("URI_NOT_ALLOWED", "sweep.spec.training_dataset")


async def test_a_job_s_wrong_uris_are_named(trainer: World, drop: Path) -> None:
    (drop / "chats.jsonl").write_bytes(DATA)
    for train, held, field, reason in (
        ("s3://no/x", None, "training_dataset", "URI_NOT_ALLOWED"),
        (f"file://{drop}/none", None, "training_dataset", "OBJECT_NOT_FOUND"),
        (f"file://{drop}/chats.jsonl", "az://no/x", "validation_dataset", "URI_NOT_ALLOWED"),
        (
            f"file://{drop}/chats.jsonl",
            f"file://{drop}/chats.jsonl",
            "validation_dataset",
            "INVALID_ARGUMENT",
        ),
    ):
        spec = job_pb2.JobSpec(training_dataset=train, adapter=f"{ACME}/adapters/voice")
        if held:
            spec.validation_dataset = held
        request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec))
        _, found, told, _ = await trainer.refused("CreateJob", request)
        assert (found, told["field"]) == (reason, f"job.spec.{field}")


async def test_a_tenant_that_waits_for_its_files_holds_up_no_other(
    trainer: World, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a call that is cancelled gives its turn back."""
    for tenant in ("acme", "other"):
        (drop.parent / tenant).mkdir(exist_ok=True)
        (drop.parent / tenant / "x.jsonl").write_bytes(DATA)
    opened, go_on = [], threading.Event()

    def slow(folder: Path, parts: Any) -> Any:
        opened.append(folder)
        if folder == drop:
            go_on.wait(30)
        return open_beneath(folder, parts)

    monkeypatch.setattr(sources, "open_beneath", slow)
    calls = [
        trainer.stub.ImportDataset(
            asked(f"file://{drop}/x.jsonl", dataset_id=f"d{n}"), metadata=token("acme")
        )
        for n in range(4)
    ]
    theirs = pb.ImportDatasetRequest(
        parent="tenants/other", dataset_id="a", uri=f"file://{drop.parent}/other/x.jsonl"
    )
    assert (await trainer.call("ImportDataset", theirs, "other")).dataset.record_count == 2
    assert opened.count(drop) == 2
    for call in calls[:2]:
        call.cancel()
    go_on.set()
    for call in calls[2:]:
        assert (await call).dataset.record_count == 2
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
    assert await trainer.ids() == ["d2", "d3"]


async def test_without_prefixes_no_uri_is_read(object_store: ObstoreStore, tmp_path: Path) -> None:
    async with world(object_store, tmp_path, {}) as trainer:
        with pytest.raises(grpc.aio.AioRpcError, match="is not the URI of one file"):
            await trainer.import_uri(f"file://{tmp_path}/x.jsonl")

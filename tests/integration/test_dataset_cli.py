"""`tailorbird datasets` against a real trainer: lists, deletes, imports, finds records."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tailorbird.cli.app import main
from tailorbird.names import VersionName
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tailorbird.tuning.v1 import dataset_pb2
from tests.integration.dataset_world import ACME, World, get, lines, name, world
from tests.integration.test_find_record import publish, version


class Ran(NamedTuple):
    status: int
    out: list[str]
    err: str


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {"acme": (f"file://{tmp_path}/drop/",)}) as found:
        yield found


@pytest.fixture
def run(trainer: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("TAILORBIRD_TRAINER", f"127.0.0.1:{trainer.port}")
    monkeypatch.setenv("TAILORBIRD_TOKEN", "acme")
    monkeypatch.setenv("TAILORBIRD_TENANT", "acme")
    monkeypatch.setenv("COLUMNS", "300")

    def blocking(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tailorbird", *arguments])
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        return 0

    async def run(*arguments: str) -> Ran:
        status = await asyncio.to_thread(blocking, *arguments)
        captured = capsys.readouterr()
        return Ran(status, [line.rstrip() for line in captured.out.splitlines()], captured.err)

    return run


async def test_datasets_are_listed(trainer: World, run: Run) -> None:
    await trainer.upload("b", lines("yes", "no"))
    await trainer.upload("a", lines("yes"))
    head, first, second = (await run("datasets", "list")).out
    assert head.split() == ["DATASET", "FORMAT", "RECORDS", "SIZE", "CREATED"]
    assert first.split()[:5] == ["a", "prompt_completion", "1", "43", "B"]
    assert second.split()[:3] == ["b", "prompt_completion", "2"]
    shown = json.loads("\n".join((await run("datasets", "list", "-o", "json")).out))
    assert [each["name"] for each in shown] == [name("a"), name("b")]


async def test_a_check_says_what_an_upload_says(trainer: World, run: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(lines("yes", "no", "yes") + lines("yes"))
    uploaded = json.loads(
        "\n".join((await run("datasets", "upload", str(good), "--id", "a", "-o", "json")).out)
    )
    (checked,) = json.loads(
        "\n".join((await run("datasets", "check", str(good), "-o", "json")).out)
    )
    assert uploaded.keys() - checked["dataset"].keys() == {"name", "create_time"}
    assert uploaded == uploaded | checked["dataset"]
    assert checked["dataset"]["report"]["duplicates"]["surplus"] == "2"

    bad.write_bytes(lines("yes", " ", " ") + b"no\n" + b'{"text": "a"}\n')
    refused = await run("datasets", "upload", str(bad), "--id", "bad")
    found = await run("datasets", "check", str(bad))
    assert (refused.status, found.status) == (4, 4)
    assert refused.err == found.err.replace(f"error: {bad}:", "error: INVALID_ARGUMENT")


async def test_a_dataset_is_deleted(trainer: World, run: Run) -> None:
    await trainer.upload("a", lines("yes"))
    await trainer.upload("b", lines("yes"))
    assert (await run("datasets", "delete", "a")).out == [f"deleted  {name('a')}"]
    shown = json.loads("\n".join((await run("datasets", "delete", "b", "-o", "json")).out))
    assert shown == {"name": name("b")}
    again = await run("datasets", "delete", "a")
    assert (again.status, again.err.split()[1:3]) == (3, ["NOT_FOUND", "DATASET_NOT_FOUND"])


async def test_a_dataset_and_a_job_s_data_are_imported(
    trainer: World, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "chats.jsonl").write_bytes(lines(*map(str, range(60))))
    uri = f"file://{tmp_path}/drop/chats.jsonl"
    imported = await run("datasets", "import", uri, "--id", "a", "--personal-data", "scan")
    assert imported.status == 0, imported.err
    facts = dict(line.split(maxsplit=1) for line in imported.out if line.startswith(("na", "imp")))
    assert facts == {"name": name("a"), "imported": f"from  {uri}"}
    made = dataset_pb2.PersonalDataMode.Value("PERSONAL_DATA_MODE_SCAN")
    assert (await trainer.call("GetDataset", get("a"))).dataset.personal_data.mode == made
    refused = await run("datasets", "import", "s3://no/x", "--id", "b")
    assert refused.err.split()[1:3] == ["INVALID_ARGUMENT", "URI_NOT_ALLOWED"]

    created = await run("jobs", "create", "--adapter", "v", "--data", uri, "--validation", uri)
    assert "must be another dataset than training_dataset" in created.err
    created = await run("jobs", "create", "--adapter", "v", "--data", uri)
    assert created.status == 0, created.err
    (data,) = [line for line in created.out if line.startswith("data ")]
    assert data.split()[1].startswith(f"{ACME}/datasets/chats-")
    swept = await run(
        *("jobs", "sweep", "create", "--adapter", "v", "--data", uri, "--ranks", "8,16"),
        *("--sweep-id", "ranks", "--validation", "0.1", "-o", "json"),
    )
    assert f"{ACME}/datasets/chats-" in "".join(swept.out), swept.err


async def test_a_record_is_traced_to_the_versions_to_retrain(
    trainer: World, run: Run, tmp_path: Path
) -> None:
    first = await trainer.upload("a", lines("no", "yes"))
    held = await trainer.upload("held", lines("yes"))
    await run("datasets", "delete", "a")
    sha = first.sha256
    await publish(
        trainer,
        version(1),
        training_dataset=name("a"),
        training_dataset_sha256=sha,
        held_out_records=1,
    )
    await publish(trainer, version(2), from_version=version(1))
    await publish(
        trainer,
        version(3),
        validation_dataset=name("held"),
        validation_dataset_sha256=held.sha256,
    )
    await publish(trainer, version(4), training_dataset=name("a"), training_dataset_sha256=sha)
    await trainer.store.put(f"{version(5)}/manifest.json", b"{")
    await AdapterRegistry(trainer.store).bury(VersionName.parse(version(4)), "me")
    await trainer.store.put(f"{ACME}/datasets/broken/meta.json", b"{")
    (tmp_path / "record.json").write_bytes(lines("yes"))
    ran = await run("datasets", "find-record", str(tmp_path / "record.json"))
    assert ran.status == 0, ran.err
    table = [line.split() for line in ran.out]
    assert table[0] == ["DATASET", "LINES", "DELETED", "FOUND"]
    assert table[1] == ["held", "line", "1", "as", "it", "is"]
    assert table[2][:3] == ["a", "line", "2"]
    assert table[2][-3:] == ["as", "it", "is"]
    ids = [f"voice/20261123T{n:06d}-job-1" for n in range(5)]
    assert [" ".join(line) for line in table[3:]] == [
        "",
        "VERSION HAS DATASET DELETED",
        f"{ids[1]} been trained on it, but for 1 held out a",
        f"{ids[2]} been trained on from {ids[1]} a",
        f"{ids[3]} been validated on it held",
        f"{ids[4]} been trained on it a yes",
        "",
        "to retrain without the record:",
        ids[1],
        ids[2],
    ]
    assert ran.err.splitlines() == [
        f"warning: not known: {name('broken')} has lost its digests",
        f"warning: not known: what {version(5)} was trained on cannot be read",
    ]
    ran = await run("datasets", "find-record", str(tmp_path / "record.json"), "-o", "json")
    found = json.loads("\n".join(ran.out))
    assert [each["dataset"] for each in found["matches"]] == [name("held"), name("a")]
    assert len(found["versions"]) == 4


async def test_a_record_of_standard_input_that_nobody_has(
    trainer: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines("yes"))))
    assert (await run("datasets", "find-record", "-")).out == ["no dataset holds the record"]


@pytest.mark.parametrize(
    ("data", "says", "status"),
    [
        (b"nope", "not JSON", 4),
        (lines("a", "b"), "2 lines are a record each; one is looked for", 2),
        (b'{"text":\n"a",', "not JSON", 4),
        (b"", "JSON", 4),
    ],
)
async def test_what_is_no_record_is_refused(
    run: Run, tmp_path: Path, data: bytes, says: str, status: int
) -> None:
    (tmp_path / "x").write_bytes(data)
    ran = await run("datasets", "find-record", str(tmp_path / "x"))
    assert (ran.status, says in ran.err) == (status, True), ran.err


async def test_too_long_a_record_is_not_sent(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * (3 * 2**20 + 1))
    ran = await run("datasets", "find-record", str(tmp_path / "x"))
    assert "record: longer than 3145728 bytes" in ran.err

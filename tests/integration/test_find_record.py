"""Which datasets hold a record, and which versions have seen it, over a real socket."""

from __future__ import annotations

import asyncio
import json
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tailorbird.manifest import Lineage
from tailorbird.names import VersionName
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tailorbird.trainer_client import TrainerClient
from tailorbird.tuning.v1 import dataset_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.dataset_world import (
    ACME,
    MOST_RECORD_BYTES,
    OTHER,
    World,
    delete,
    lines,
    name,
    world,
)
from tests.unit.trainer_svc.values import make_manifest, put_version
from trainer_svc.datasets import search

YES = lines("yes")
SHA, SHA2 = "1" * 64, "2" * 64


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {}) as found:
        yield found


async def find(trainer: World, record: bytes = YES, **fields: Any) -> pb.FindRecordResponse:
    asked = {"record": record} if "digest" not in fields else {}
    request = pb.FindRecordRequest(**{"parent": ACME, **asked, **fields})
    found: pb.FindRecordResponse = await trainer.call("FindRecord", request)
    return found


async def test_a_record_is_found_in_whatever_format_it_was_uploaded(trainer: World) -> None:
    chat = {
        "messages": [
            {"role": "user", "content": "ask yes"},
            {"role": "assistant", "content": "yes"},
        ],
        "metadata": {"region": "north"},
    }
    first = await trainer.upload("a", lines("no", "yes", "maybe", "yes"))
    other = await trainer.upload("b", json.dumps(chat).encode())
    await trainer.upload("c", lines("no"))
    await trainer.upload("d", YES, OTHER)
    found = await find(trainer, b'{ "completion": " yes ",\n  "prompt": "ask yes", "id": 7 }\n')
    assert list(found.matches) == [
        dataset_pb2.RecordMatch(
            dataset=name("a"), dataset_sha256=first.sha256, lines=[2, 4], line_count=2
        ),
        dataset_pb2.RecordMatch(
            dataset=name("b"), dataset_sha256=other.sha256, lines=[1], line_count=1
        ),
    ]
    assert (list(found.unsearched), found.next_page_token) == ([], "")
    assert (await find(trainer, digest=found.digest)).matches == found.matches


async def test_a_byte_order_mark_is_no_part_of_a_record(trainer: World) -> None:
    marked = await trainer.upload("marked", BOM_UTF8 + lines("yes", "no", "yes"))
    (match,) = (await find(trainer, BOM_UTF8 + YES)).matches
    assert (match.dataset, match.dataset_sha256) == (marked.name, marked.sha256)
    assert list(match.lines) == [1, 3]
    assert list((await find(trainer)).matches) == [match]


async def test_a_chat_is_found_however_it_was_spelled(trainer: World) -> None:
    def chat(role: str, **more: Any) -> bytes:
        messages: list[dict[str, Any]] = [
            {"role": role, "content": "Be brief."},
            {"role": "user", "content": "ask", **more},
            {"role": "assistant", "content": "yes", **more},
        ]
        return json.dumps({"messages": messages}).encode() + b"\n"

    spelled = [chat("developer"), chat("system", name="ada"), chat("system", tool_calls=None)]
    await trainer.upload("a", b"".join(spelled))
    for sought in (chat("system"), *spelled):
        (match,) = (await find(trainer, sought)).matches
        assert (match.dataset, list(match.lines)) == (name("a"), [1, 2, 3])


async def test_a_record_of_two_formats_is_found_as_the_dataset_reads_it(trainer: World) -> None:
    record = b'{"prompt": "a", "completion": "b", "text": "c"}'
    text = await trainer.upload("a", record, format=dataset_pb2.DATASET_FORMAT_TEXT)
    pair = await trainer.upload("b", record)
    found = await find(trainer, record)
    assert [each.dataset_sha256 for each in found.matches] == [text.sha256, pair.sha256]


async def test_of_many_lines_the_first_are_told(trainer: World) -> None:
    await trainer.upload("a", YES * 150)
    (match,) = (await find(trainer)).matches
    assert (list(match.lines), match.line_count) == (list(range(1, 101)), 150)


async def test_a_record_is_found_in_a_deleted_dataset(trainer: World) -> None:
    made = await trainer.upload("a", lines("no", "yes"))
    await trainer.call("DeleteDataset", delete("a"))
    (match,) = (await find(trainer)).matches
    assert (match.dataset, match.dataset_sha256, list(match.lines)) == (name("a"), made.sha256, [2])
    assert match.HasField("delete_time")
    # What is uploaded again is there, and what else stood under the name is still known.
    again = await trainer.upload("a", lines("yes", "later"))
    there, gone = (await find(trainer)).matches
    assert (there.dataset_sha256, there.HasField("delete_time")) == (again.sha256, False)
    assert (gone.dataset_sha256, gone.HasField("delete_time")) == (made.sha256, True)
    await trainer.call("DeleteDataset", delete("a"))
    await trainer.upload("a", lines("no", "yes"))
    there, gone = (await find(trainer)).matches
    assert (there.dataset_sha256, there.HasField("delete_time")) == (made.sha256, False)
    assert (gone.dataset_sha256, gone.HasField("delete_time")) == (again.sha256, True)


async def test_datasets_are_looked_at_a_page_at_a_time(trainer: World) -> None:
    for one in "abcde":
        await trainer.upload(one, YES if one in "bde" else lines("no"))
    for one in "ae":
        await trainer.call("DeleteDataset", delete(one))
    pages, page_token = [], ""
    while True:
        page = await find(trainer, page_size=2, page_token=page_token)
        pages.append([each.dataset.rpartition("/")[2] for each in page.matches])
        if not (page_token := page.next_page_token):
            break
    assert pages == [["b"], ["d"], ["e"]]


async def test_a_page_ends_where_enough_was_read(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_MOST_BYTES", 1)
    for one in "ab":
        await trainer.upload(one, YES)
    await trainer.call("DeleteDataset", delete("b"))
    first = await find(trainer)
    assert [each.dataset for each in first.matches] == [name("a")]
    rest = await find(trainer, page_token=first.next_page_token)
    assert [each.dataset for each in rest.matches] == [name("b")]


async def test_what_cannot_be_searched_is_said(trainer: World) -> None:
    made = {one: await trainer.upload(one, YES) for one in ("a", "b", "c", "d")}
    record = json.loads(await trainer.store.get(f"{name('a')}/meta.json"))
    del record["report"]
    await trainer.store.put(f"{name('a')}/meta.json", json.dumps(record).encode())
    sha256 = made["b"].sha256
    await trainer.store.put(f"{name('b')}/index-{sha256}-prompt_completion.bin", b"x")
    await trainer.store.put(f"{name('c')}/meta.json", b"{")
    await trainer.store.put(f"{name('half')}/data-{sha256}.jsonl", b"")
    kept = f"{ACME}/deleted_datasets/e/index-{sha256}-prompt_completion-off.bin"
    await trainer.store.put(kept, b"x")
    found = await find(trainer)
    assert [each.dataset for each in found.matches] == [name("d")]
    told = [(each.dataset.rpartition("/")[2], each.reason) for each in found.unsearched]
    assert told == [
        ("a", "NO_INDEX"),
        ("b", "INDEX_DAMAGED"),
        ("c", "INDEX_DAMAGED"),
        ("e", "INDEX_DAMAGED"),
    ]


async def test_records_beyond_the_index_may_be_there(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.datasets.index.MAX_ROWS", 2)
    await trainer.upload("a", lines("x", "y", "yes"))
    for deleted in (False, True):
        found = await find(trainer)
        assert list(found.matches) == []
        (may,) = found.unsearched
        assert (may.dataset, may.reason) == (name("a"), "RECORDS_NOT_INDEXED")
        if not deleted:
            await trainer.call("DeleteDataset", delete("a"))


PERSONAL = b'{"prompt": "who?", "completion": "jane.roe@web.de"}'
REDACT = dataset_pb2.PERSONAL_DATA_MODE_REDACT
SUBSTITUTE = dataset_pb2.PERSONAL_DATA_MODE_SUBSTITUTE


async def test_a_record_is_found_as_it_was_redacted(trainer: World) -> None:
    await trainer.upload("a", PERSONAL, personal_data=REDACT)
    await trainer.upload("b", PERSONAL)
    for deleted in (False, True):
        found = {each.dataset: each.redacted for each in (await find(trainer, PERSONAL)).matches}
        assert found == {name("a"): True, name("b"): False}
        if not deleted:
            await trainer.call("DeleteDataset", delete("a"))
    stored = b'{"prompt": "who?", "completion": "<EMAIL>"}'
    (match,) = (await find(trainer, stored)).matches
    assert (match.dataset, match.redacted) == (name("a"), False)


async def test_stand_ins_hide_a_record(trainer: World) -> None:
    await trainer.upload("a", PERSONAL + b"\n" + YES, personal_data=SUBSTITUTE)
    for deleted in (False, True):
        found = await find(trainer, PERSONAL)
        assert list(found.matches) == []
        assert [each.reason for each in found.unsearched] == ["SUBSTITUTED"]
        # What has no personal data is as it was.
        found = await find(trainer)
        assert (len(found.matches), len(found.unsearched)) == (1, 0)
        stored = await find(trainer, digest="0" * 32)
        assert (len(stored.matches), len(stored.unsearched)) == (0, 0)
        if not deleted:
            await trainer.call("DeleteDataset", delete("a"))


async def test_a_trainer_that_cannot_scan_says_so(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailorbird.errors import FailedPrecondition

    await trainer.upload("a", PERSONAL, personal_data=REDACT)

    def missing(*_: object) -> None:
        raise FailedPrecondition("no extra", reason="PRIVACY_EXTRA_MISSING")

    monkeypatch.setattr(trainer.datasets.policy, "scan", missing)
    found = await find(trainer, PERSONAL)
    assert [each.reason for each in found.unsearched] == ["SUBSTITUTED"]


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"record": b"nope"}, "record", "not JSON"),
        ({"record": b"{}"}, "record", "unknown shape"),
        ({"record": b"x" * (MOST_RECORD_BYTES + 1)}, "record", f"than {MOST_RECORD_BYTES} bytes"),
        ({"digest": "0" * 31}, "digest", "32 lower-case hex digits"),
        ({"digest": "A" * 32}, "digest", "32 lower-case hex digits"),
        ({}, "digest", "give that or the record"),
        ({"record": YES, "page_size": -1}, "page_size", "negative"),
        ({"record": YES, "page_token": "x"}, "page_token", "next_page_token"),
        ({"record": YES, "parent": "x"}, "parent", "tenants/{tenant}"),
    ],
)
async def test_a_wrong_search_is_refused(
    trainer: World, fields: dict[str, Any], field: str, text: str
) -> None:
    request = pb.FindRecordRequest(**{"parent": ACME, **fields})
    code, _, told, message = await trainer.refused("FindRecord", request)
    assert (code, told["field"]) == ("INVALID_ARGUMENT", field)
    assert text in message


def version(number: int, adapter: str = "voice", parent: str = ACME) -> str:
    return f"{parent}/adapters/{adapter}/versions/20261123T{number:06d}-job-1"


async def publish(trainer: World, name: str, **lineage: Any) -> None:
    made = make_manifest(name).lineage.model_copy(update={"training_dataset_sha256": ""} | lineage)
    await put_version(trainer.store, name, lineage=made)


async def trained(trainer: World, *sha256s: str, **fields: Any) -> pb.ListTrainedVersionsResponse:
    request = pb.ListTrainedVersionsRequest(parent=ACME, dataset_sha256=sha256s, **fields)
    found: pb.ListTrainedVersionsResponse = await trainer.call("ListTrainedVersions", request)
    return found


def told(found: pb.ListTrainedVersionsResponse) -> list[tuple[str, str, str]]:
    return [
        (each.version, dataset_pb2.DataUse.Name(each.use)[9:], each.inherited_from)
        for each in found.versions
    ]


async def test_versions_are_found_by_the_data_they_were_trained_on(trainer: World) -> None:
    await publish(
        trainer,
        version(1),
        training_dataset=name("gone"),
        training_dataset_sha256=SHA,
        job=f"{ACME}/jobs/rates",
        held_out_records=3,
    )
    await publish(trainer, version(2), training_dataset_sha256=SHA2)
    await publish(trainer, version(3, "other"), training_dataset_sha256=SHA)
    await publish(trainer, version(4, parent=OTHER), training_dataset_sha256=SHA)
    found = await trained(trainer, SHA)
    assert told(found) == [(version(3, "other"), "TRAINED", ""), (version(1), "TRAINED", "")]
    first = found.versions[1]
    assert (first.dataset, first.dataset_sha256) == (name("gone"), SHA)
    assert (first.job, first.held_out_records) == (f"{ACME}/jobs/rates", 3)
    assert first.create_time.seconds > 0
    assert not found.versions[0].HasField("held_out_records")
    assert len((await trained(trainer, SHA, SHA2)).versions) == 3
    none = await trained(trainer, "3" * 64)
    assert (list(none.versions), list(none.unknown_versions)) == ([], [])


async def test_what_was_trained_on_from_a_version_has_seen_its_data(trainer: World) -> None:
    await publish(trainer, version(1), training_dataset_sha256=SHA)
    await publish(trainer, version(2, "b"), training_dataset_sha256=SHA2, from_version=version(1))
    await publish(trainer, version(3, "a"), from_version=version(2, "b"))
    await publish(trainer, version(4), training_dataset_sha256=SHA, from_version=version(1))
    # The version that was routed when a job with fresh weights began gave it nothing.
    await publish(trainer, version(5), parent_version=version(1))
    found = await trained(trainer, SHA)
    assert told(found) == [
        (version(3, "a"), "INHERITED", version(1)),
        (version(2, "b"), "INHERITED", version(1)),
        (version(1), "TRAINED", ""),
        (version(4), "TRAINED", ""),
    ]
    both = await trained(trainer, SHA, SHA2)
    assert told(both)[:2] == [
        (version(3, "a"), "INHERITED", version(2, "b")),
        (version(3, "a"), "INHERITED", version(1)),
    ]


async def test_validation_data_was_only_judged_by(trainer: World) -> None:
    await publish(
        trainer,
        version(1),
        training_dataset_sha256=SHA2,
        validation_dataset=name("held"),
        validation_dataset_sha256=SHA,
        held_out_records=0,
    )
    await publish(trainer, version(2), from_version=version(1))
    found = await trained(trainer, SHA)
    assert told(found) == [(version(1), "VALIDATED", "")]
    (one,) = found.versions
    assert (one.dataset, one.dataset_sha256) == (name("held"), SHA)
    assert not one.HasField("held_out_records")


async def test_a_deleted_version_is_told_until_it_is_collected(trainer: World) -> None:
    await publish(trainer, version(1), training_dataset_sha256=SHA)
    await publish(trainer, version(2), from_version=version(1))
    await AdapterRegistry(trainer.store).bury(VersionName.parse(version(1)), "me")
    found = await trained(trainer, SHA)
    assert [each.deleted for each in found.versions] == [True, False]
    await trainer.store.delete(f"{version(1)}/manifest.json")
    found = await trained(trainer, SHA)
    assert (list(found.versions), list(found.unknown_versions)) == ([], [version(2)])


async def test_what_cannot_be_traced_is_said_and_hides_nothing(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(trainer, version(1), training_dataset_sha256=SHA)
    await trainer.store.put(f"{version(2)}/manifest.json", b"{")
    await trainer.store.put(f"{version(3)}/adapter_config.json", b"{}")
    await publish(trainer, version(4), from_version=version(2))
    await publish(trainer, version(5), from_version="nothing")
    await publish(trainer, version(6, parent=OTHER), training_dataset_sha256=SHA)
    await publish(trainer, version(7), from_version=version(6, parent=OTHER))
    # One that says it comes from itself is followed no further than others.
    await publish(trainer, version(8), from_version=version(8))
    found = await trained(trainer, SHA)
    assert told(found) == [(version(1), "TRAINED", "")]
    assert list(found.unknown_versions) == [version(n) for n in (2, 4, 5, 7, 8)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
async def test_versions_are_looked_at_a_page_at_a_time(trainer: World, size: int) -> None:
    made = [version(n, adapter) for adapter in ("a", "b", "c") for n in (1, 2, 3)]
    for each in made:
        await publish(trainer, each, training_dataset_sha256=SHA)
    await trainer.store.put(f"{ACME}/adapters/bb/routes/{1:012d}.json", b"{}")
    found, page_token, pages = [], "", 0
    while True:
        page = await trained(trainer, SHA, page_size=size, page_token=page_token)
        assert len(page.versions) <= size
        found += [each.version for each in page.versions]
        pages += 1
        assert pages < 20
        if not (page_token := page.next_page_token):
            break
    assert found == made


@pytest.mark.parametrize(
    ("sha256s", "field"),
    [
        ([], "dataset_sha256"),
        ([SHA] * 1001, "dataset_sha256"),
        ([SHA, "x"], "dataset_sha256[1]"),
        ([SHA.replace("1", "A")], "dataset_sha256[0]"),
        ([""], "dataset_sha256[0]"),
    ],
)
async def test_wrong_digests_are_refused(trainer: World, sha256s: list[str], field: str) -> None:
    request = pb.ListTrainedVersionsRequest(parent=ACME, dataset_sha256=sha256s)
    code, _, told_, _ = await trainer.refused("ListTrainedVersions", request)
    assert (code, told_["field"]) == ("INVALID_ARGUMENT", field)


async def test_the_client_goes_through_all_pages(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailorbird.trainer_data._VERSIONS_A_PAGE", 25)
    for number in range(60):
        await publish(trainer, version(number), training_dataset_sha256=SHA)
    await trainer.upload("a", YES)

    def ask() -> tuple[list[Any], list[Any], list[str]]:
        with TrainerClient(f"127.0.0.1:{trainer.port}", "acme") as client:
            return (
                list(client.find_record(ACME, YES)),
                list(client.list_trained_versions(ACME, [SHA])),
                [each.name for each in client.list_datasets(ACME)],
            )

    matches, versions, datasets = await asyncio.to_thread(ask)
    assert [each.dataset for each in matches] == [name("a")]
    assert [each.version for each in versions] == [version(number) for number in range(60)]
    assert datasets == [name("a")]


def test_what_a_release_before_wrote_of_a_lineage_is_written_the_same() -> None:
    lineage = make_manifest(version(1)).lineage
    assert "held_out_records" not in lineage.model_dump_json()
    assert "validation" not in lineage.model_dump_json()
    known = lineage.model_copy(update={"held_out_records": 0})
    assert Lineage.model_validate_json(known.model_dump_json()).held_out_records == 0


async def test_a_record_that_no_dataset_of_a_format_may_hold_is_in_none_of_them(
    trainer: World,
) -> None:
    await trainer.upload("a", b'{"text": "c"}')
    pair = await trainer.upload("b", YES)
    record = json.dumps(json.loads(YES) | {"text": ""}).encode()
    found = await find(trainer, record)
    assert [each.dataset_sha256 for each in found.matches] == [pair.sha256]
    assert list(found.unsearched) == []


async def test_a_name_that_was_deleted_often_is_looked_at_a_page_at_a_time(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = {}
    for one in ("a", "b", "c"):
        # Under a name that is the beginning of another, too.
        for dataset in ("x", "x-y"):
            made = await trainer.upload(dataset, lines(one, "yes"))
            deleted[dataset, made.sha256] = False
            await trainer.call("DeleteDataset", delete(dataset))
    monkeypatch.setattr(search, "_MOST_BYTES", 1)
    page_token = ""
    for _ in deleted:
        page = await find(trainer, page_token=page_token)
        (match,) = page.matches
        deleted[match.dataset.rpartition("/")[2], match.dataset_sha256] = True
        page_token = page.next_page_token
    assert all(deleted.values())
    assert page_token == ""
    monkeypatch.undo()
    page = await find(trainer, page_size=4)
    assert len(page.matches) == 4
    rest = await find(trainer, page_size=4, page_token=page.next_page_token)
    assert (len(rest.matches), rest.next_page_token) == (2, "")

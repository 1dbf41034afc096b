"""What stands in the store comes back as it was written, or says that it is broken.

What a newer writer added comes back too: an old replica lives beside a new one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import AdapterRefused, DataCorrupt
from tailorbird.manifest import (
    MAX_CHAT_CHARS,
    MAX_CHAT_TOKENS,
    MAX_CHATS,
    MAX_MANIFEST_BYTES,
    MAX_PROBES_BYTES,
    AdapterManifest,
    ChatMessage,
    EvaluationSummary,
    Probes,
    ProbeSequence,
    RenderedChat,
    file_entry,
)
from tailorbird.names import DatasetName, VersionName
from tailorbird.object_store import open_store
from tailorbird.profile import ServingProfile, read_profile, write_profile
from tailorbird.records.formats import DatasetFormat
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route
from tests.unit.trainer_svc.values import make_manifest
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.store import DatasetStore

VERSION = "tenants/acme/adapters/voice/versions/20260101T000000-one-1"


def test_a_manifest_comes_back() -> None:
    manifest = make_manifest(VERSION)
    assert AdapterManifest.from_json(manifest.to_json()) == manifest


def test_what_a_version_was_trained_on_from_is_written_only_where_there_is_one() -> None:
    """A publication that an earlier release committed is replayed to the same bytes."""
    manifest = make_manifest(VERSION)
    assert b"from_version" not in manifest.to_json()
    lineage = manifest.lineage.model_copy(update={"from_version": VERSION})
    of_parent = manifest.model_copy(update={"lineage": lineage})
    assert AdapterManifest.from_json(of_parent.to_json()) == of_parent


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"version": 3}'])
def test_a_broken_manifest_is_corrupt(data: bytes) -> None:
    with pytest.raises(DataCorrupt) as caught:
        AdapterManifest.from_json(data)
    assert caught.value.reason == "MANIFEST_INVALID"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 10**30),
        ("rank", -1),
        ("create_time", "0001-01-01T00:00:00+14:00"),
        ("create_time", "9999-12-31T23:59:59-14:00"),
        ("create_time", "2026-01-01T00:00:00"),
        ("alpha", 1e999),
        ("alpha", 10**400),
        ("schema_version", 0),
    ],
)
def test_a_manifest_says_nothing_the_api_cannot_say(field: str, value: object) -> None:
    fields = json.loads(make_manifest(VERSION).to_json()) | {field: value}
    with pytest.raises(DataCorrupt, match=field):
        AdapterManifest.from_json(json.dumps(fields).encode())


def test_probes_come_back() -> None:
    probe = ProbeSequence(token_ids=(1, 2, 3), base_logprobs=(-1, -2), adapter_logprobs=(-1, -1))
    probes = Probes(sequences=(probe,))
    assert Probes.from_json(probes.to_json()) == probes


@pytest.mark.parametrize(
    "data",
    [
        b'{"sequences": []}',
        b'{"sequences": [{"token_ids": [1], "base_logprobs": [], "adapter_logprobs": []}]}',
        b'{"sequences": [{"token_ids": [1, 2], "base_logprobs": [], "adapter_logprobs": [0]}]}',
        b'{"sequences": [{"token_ids": [1, 2], "base_logprobs": [0], "adapter_logprobs": []}]}',
    ],
)
def test_broken_probes_are_corrupt(data: bytes) -> None:
    with pytest.raises(DataCorrupt) as caught:
        Probes.from_json(data)
    assert caught.value.reason == "PROBES_INVALID"


def test_a_files_entry_is_its_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    entry = file_entry(tmp_path / "x")
    assert entry.size == 3
    assert entry.sha256.startswith("ba7816bf")


async def test_a_profile_is_written_over_and_read(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    assert await read_profile(store, "default") is None
    digest = f"sha256:{'0' * 64}"
    profile = ServingProfile(
        profile="default",
        base_model="base",
        base_model_digest=digest,
        chat_template_digest=digest,
        max_model_len=512,
        max_lora_rank=64,
        adapter_slots=8,
        dtype="float32",
    )
    await write_profile(store, profile)
    newer = profile.model_copy(update={"adapter_slots": 4})
    await write_profile(store, newer)
    assert await read_profile(store, "default") == newer
    await store.put("profiles/default.json", b"{}")
    with pytest.raises(DataCorrupt):
        await read_profile(store, "default")


def with_unknown(value: Any) -> Any:
    """Return the value with a field more in each of its objects."""
    if isinstance(value, dict):
        return {key: with_unknown(inner) for key, inner in value.items()} | {"newer": [{"x": 1}]}
    return [with_unknown(inner) for inner in value] if isinstance(value, list) else value


def newer_manifest() -> dict[str, Any]:
    known = json.loads(make_manifest(VERSION).to_json())
    # Maps of names, not objects with fields.
    maps = {key: known.pop(key) for key in ("tensors", "files")}
    files = {name: with_unknown(entry) for name, entry in maps["files"].items()}
    newer: dict[str, Any] = with_unknown(known)
    return newer | {"tensors": maps["tensors"], "files": files, "schema_version": 2}


PROBES = {"sequences": [{"token_ids": [1, 2], "base_logprobs": [-1.0], "adapter_logprobs": [-2.0]}]}


def test_a_newer_manifest_is_read_and_keeps_what_is_new() -> None:
    newer = newer_manifest()
    assert newer["lineage"]["newer"]
    assert next(iter(newer["files"].values()))["newer"]
    assert json.loads(AdapterManifest.from_json(json.dumps(newer).encode()).to_json()) == newer


def test_newer_probes_keep_what_is_new() -> None:
    newer = with_unknown(PROBES)
    assert json.loads(Probes.from_json(json.dumps(newer).encode()).to_json()) == newer


CHAT: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "hello", "tool_calls": [], "tool_call_id": ""},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "name": "look", "arguments_json": '{"a": [{}]}'}],
            "tool_call_id": "",
        },
        {"role": "tool", "content": "42", "tool_calls": [], "tool_call_id": "c"},
    ],
    "tools": [{"name": "look", "description": "", "parameters_json_schema": ""}],
    "token_ids": [1, 2],
}


def with_chat(**changes: Any) -> bytes:
    return json.dumps(PROBES | {"chats": [CHAT | changes]}).encode()


def with_message(**changes: Any) -> bytes:
    return with_chat(messages=[{"role": "user", "content": "hello"} | changes], tools=[])


def nested(depth: int) -> str:
    return '{"a":' * depth + "{}" + "}" * depth


def call(arguments: str) -> dict[str, str]:
    return {"id": "c", "name": "look", "arguments_json": arguments}


def test_chats_come_back_and_are_not_written_where_there_are_none() -> None:
    told = PROBES | {"chats": [CHAT]}
    assert json.loads(Probes.from_json(json.dumps(told).encode()).to_json()) == told
    earlier = json.dumps(PROBES, separators=(",", ":")).encode()
    assert Probes.from_json(earlier).to_json() == earlier
    newer = with_unknown(told)
    assert json.loads(Probes.from_json(json.dumps(newer).encode()).to_json()) == newer


@pytest.mark.parametrize(
    "data",
    [
        with_chat(messages=[CHAT["messages"][0]] * 128),
        with_chat(tools=[CHAT["tools"][0]] * 128),
        with_chat(token_ids=[0] * MAX_CHAT_TOKENS),
        with_message(content="x" * (MAX_CHAT_CHARS - len("user"))),
        with_message(tool_calls=[call(nested(63))]),
        json.dumps(PROBES | {"chats": [CHAT] * MAX_CHATS}).encode(),
    ],
    ids=["messages", "tools", "tokens", "characters", "depth", "chats"],
)
def test_chats_up_to_the_bounds_are_read(data: bytes) -> None:
    assert Probes.from_json(data).chats


@pytest.mark.parametrize(
    "data",
    [
        with_chat(messages=[]),
        with_chat(messages=[CHAT["messages"][0]] * 129),
        with_chat(tools=[CHAT["tools"][0]] * 129),
        with_chat(token_ids=[]),
        with_chat(token_ids=[0] * (MAX_CHAT_TOKENS + 1)),
        with_chat(token_ids=[-1]),
        with_chat(token_ids=[2**31]),
        with_chat(token_ids=["x"]),
        with_message(role="developer"),
        with_message(role=["user"]),
        with_message(content=None),
        with_message(content="x" * (MAX_CHAT_CHARS - len("user") + 1)),
        with_message(tool_call_id="x" * MAX_CHAT_CHARS),
        with_message(tool_calls=[call("{}")] * 129),
        with_message(tool_calls=[call(nested(64))]),
        with_message(tool_calls=[call(nested(5_000))]),
        with_message(tool_calls=[call("[" * 30_000)]),
        with_message(tool_calls=[call("")]),
        with_message(tool_calls=[call("[]")]),
        with_message(tool_calls=[call("9" * 5000)]),
        with_message(tool_calls=[call(json.dumps({"a": "x" * MAX_CHAT_CHARS}))]),
        with_chat(tools=[{"name": "look", "parameters_json_schema": "no JSON"}]),
        with_chat(tools=[{"name": "look", "description": "x" * MAX_CHAT_CHARS}]),
        json.dumps(PROBES | {"chats": [CHAT] * (MAX_CHATS + 1)}).encode(),
        json.dumps(PROBES | {"chats": {}}).encode(),
        json.dumps(PROBES | {"chats": [{}] * 100_000}).encode(),
    ],
    ids=lambda data: f"{len(data)}: {data[90:150]!r}",
)
def test_chats_that_no_training_writes_are_corrupt(data: bytes) -> None:
    with pytest.raises(DataCorrupt) as caught:
        Probes.from_json(data)
    assert caught.value.reason == "PROBES_INVALID"
    assert len(caught.value.message.encode()) < 500


def test_a_certificate_of_the_largest_parts_is_not_too_large() -> None:
    """In the longest form that JSON has for characters and ids."""
    chat = RenderedChat(
        messages=(ChatMessage(role="user", content="\x01" * (MAX_CHAT_CHARS - len("user"))),),
        token_ids=(2**31 - 1,) * MAX_CHAT_TOKENS,
    )
    told = (-12.345678901234567,) * 127
    probe = ProbeSequence(token_ids=(10**6,) * 128, base_logprobs=told, adapter_logprobs=told)
    data = Probes(sequences=(probe,) * 4, chats=(chat,) * MAX_CHATS).to_json()
    assert len(data) < MAX_PROBES_BYTES


def test_a_newer_dataset_keeps_what_is_new() -> None:
    dataset = Dataset(
        name="tenants/acme/datasets/chats",
        format=DatasetFormat.CHAT,
        record_count=1,
        size_bytes=1,
        sha256="0" * 64,
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        ignored_fields=(),
    )
    newer = with_unknown(json.loads(dataset.model_dump_json()))
    assert json.loads(Dataset.model_validate(newer).model_dump_json()) == newer


def test_a_newer_route_keeps_what_is_new() -> None:
    newer = {
        "generation": 3,
        "versions": [{"version": "20260101T000000-one-1", "weight": 100, "newer": 1}],
        "reason": "a reason of tomorrow",
        "actor": "me",
        "create_time": "2026-01-01T00:00:00Z",
        "nonce": "n",
        "newer": {"x": [1]},
    }
    assert json.loads(Route.model_validate_json(json.dumps(newer)).model_dump_json()) == newer


def test_an_import_has_neither_job_nor_evaluation() -> None:
    fields = json.loads(make_manifest(VERSION).to_json())
    fields["lineage"] = dict.fromkeys(fields["lineage"], "") | {"imported_from": "s3://x/y"}
    fields["evaluation"] = {}
    manifest = AdapterManifest.from_json(json.dumps(fields).encode())
    assert manifest.lineage.imported_from == "s3://x/y"
    assert manifest.evaluation == EvaluationSummary()
    assert manifest.evaluation.training_loss is None
    assert AdapterManifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        json.dumps({"tensors": {str(i): "x" for i in range(70_000)}}).encode(),
        json.dumps({"files": {"x" * 100_000: {}}}).encode(),
        b'{"rank": ' + b"9" * 5000 + b"}",
        b'{"version": "\\ud800"}',
    ],
    ids=["deep", "many faults", "a long name", "a long number", "a lone surrogate"],
)
def test_a_hostile_manifest_is_corrupt_in_few_words(data: bytes) -> None:
    with pytest.raises(DataCorrupt) as caught:
        AdapterManifest.from_json(data)
    assert len(caught.value.message.encode()) < 500


def test_more_bytes_than_a_manifest_or_probes_need_are_not_parsed() -> None:
    padding = b" " * MAX_MANIFEST_BYTES
    with pytest.raises(DataCorrupt, match="at most"):
        AdapterManifest.from_json(make_manifest(VERSION).to_json() + padding)
    with pytest.raises(DataCorrupt, match="at most"):
        Probes.from_json(json.dumps(PROBES).encode() + b" " * MAX_PROBES_BYTES)


async def test_what_is_too_large_is_not_read_from_the_store(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    version = VersionName.parse(VERSION)
    adapter = version.adapter_name
    datasets = DatasetStore(store, tmp_path / "spool", 1000, 1000)
    for key in (
        f"{version}/manifest.json",
        f"{adapter}/routes/000000000001.json",
        "profiles/default.json",
        "tenants/acme/datasets/chats/meta.json",
    ):
        await store.put(key, b" " * (MAX_MANIFEST_BYTES + 1))
    registry = AdapterRegistry(store)
    for read in (
        registry.manifest(version),
        registry.route(adapter, 1),
        read_profile(store, "default"),
        datasets.get(DatasetName("acme", "chats")),
    ):
        with pytest.raises(DataCorrupt) as caught:
            await read
        assert caught.value.reason == "OBJECT_TOO_LARGE"


async def test_a_newer_profile_keeps_what_is_new(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    newer = {
        "profile": "default",
        "base_model": "base",
        "base_model_digest": f"sha256:{'0' * 64}",
        "chat_template_digest": f"sha256:{'0' * 64}",
        "max_model_len": 512,
        "max_lora_rank": 64,
        "adapter_slots": 8,
        "dtype": "float32",
        "newer": {"x": [1]},
    }
    await store.put("profiles/default.json", json.dumps(newer).encode())
    profile = await read_profile(store, "default")
    assert profile is not None
    await write_profile(store, profile)
    assert json.loads(await store.get("profiles/default.json")) == newer


def test_a_refusal_is_small_and_for_ever_unless_it_says_so() -> None:
    assert len(AdapterRefused("x" * 10_000).message) == 500
    assert len(str(AdapterRefused("x" * 10_000))) == 500
    assert not AdapterRefused("no").retryable
    assert AdapterRefused("no", retryable=True).retryable

"""Manifests, probes and profiles come back as they were written, or say that they are broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailorbird.errors import DataCorrupt
from tailorbird.manifest import AdapterManifest, Probes, ProbeSequence, file_entry
from tailorbird.object_store import open_store
from tailorbird.profile import ServingProfile, read_profile, write_profile
from tests.unit.trainer_svc.values import make_manifest

VERSION = "tenants/acme/adapters/voice/versions/20260101T000000-one-1"


def test_a_manifest_comes_back() -> None:
    manifest = make_manifest(VERSION)
    assert AdapterManifest.from_json(manifest.to_json()) == manifest


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

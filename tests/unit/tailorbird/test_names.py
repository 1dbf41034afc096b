"""Names: what is one, what is not, and that no name leaves its folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import InvalidArgument
from tailorbird.names import (
    AdapterName,
    DatasetName,
    FeedbackName,
    JobName,
    TenantName,
    VersionName,
    check_id,
    version_id,
)

KINDS = [TenantName, JobName, DatasetName, AdapterName, VersionName, FeedbackName]
GOOD = {
    TenantName: "tenants/acme",
    JobName: "tenants/acme/jobs/j-1",
    DatasetName: "tenants/acme/datasets/d",
    AdapterName: "tenants/acme/adapters/voice",
    VersionName: "tenants/acme/adapters/voice/versions/20260102T030405-j-1-12",
    FeedbackName: f"tenants/acme/adapters/voice/feedback/20260102-{'0a' * 16}",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_read_and_written_the_same(kind: type[TenantName]) -> None:
    name = kind.parse(GOOD[kind])
    assert str(name) == GOOD[kind]
    assert name.tenant == "acme"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda name: name + "/",
        lambda name: "/" + name,
        lambda name: name + "\n",
        lambda name: name.replace("acme", "../acme"),
        lambda name: name.replace("acme", ".."),
        lambda name: name.replace("acme", ""),
        lambda name: name.replace("acme", "Acme"),
        lambda name: name.replace("acme", "-acme"),
        lambda name: name.replace("acme", "acme-"),
        lambda name: name.replace("acme", "a" * 64),
        lambda name: name.replace("acme", "ac%2fme"),
        lambda name: name.replace("acme", "ac\x00me"),
        lambda name: name.replace("acme", "аcme"),
        lambda _: "",
        lambda _: "x" * 10_000,
    ],
)
def test_refuses_what_is_no_name(kind: type[TenantName], change: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        kind.parse(change(GOOD[kind]), "job.spec.adapter")  # type: ignore[operator]
    assert caught.value.field == "job.spec.adapter"
    assert caught.value.reason == "INVALID_NAME"
    assert len(caught.value.message) < 400


@given(st.text())
def test_no_text_leaves_its_folder(text: str) -> None:
    try:
        name = DatasetName("acme", check_id("id", text))
    except InvalidArgument:
        return
    path = PurePosixPath("/root") / str(name)
    assert ".." not in path.parts
    assert len(path.parts) == 6


def test_versions_sort_by_time() -> None:
    job = JobName("acme", "job")
    times = [datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC) for second in (1, 2, 40)]
    ids = [version_id(job, 1, time) for time in times]
    assert ids == sorted(ids)
    assert AdapterName("acme", "voice").version(ids[0]).version == "20260102T030401-job-1"

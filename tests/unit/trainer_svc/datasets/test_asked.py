"""What errors of a file name that came from a URI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.errors import InvalidArgument, InvalidRecord, InvalidRecords
from tailorbird.names import TenantName
from tailorbird.object_store import ObstoreStore
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.modes import Mode
from trainer_svc.datasets.asked import named_as
from trainer_svc.datasets.personal_data import PersonalDataPolicy
from trainer_svc.datasets.store import DatasetStore


def test_what_is_wrong_with_the_file_is_named_by_the_uri() -> None:
    with pytest.raises(InvalidArgument) as caught, named_as("uri"):
        raise InvalidArgument("chunk", "too many", reason="DATASET_TOO_LARGE", limit=7)
    error = caught.value
    assert (error.field, error.reason) == ("uri", "DATASET_TOO_LARGE")
    assert error.metadata == {"field": "uri", "limit": "7"}


def test_what_is_wrong_with_lines_names_the_lines() -> None:
    told = InvalidRecords([InvalidRecord(3, "no")], 1, 4)
    with pytest.raises(InvalidRecords) as caught, named_as("uri"):
        raise told
    assert caught.value.violations == [("line 3", "no")]


def test_what_else_is_wrong_keeps_its_name() -> None:
    with pytest.raises(InvalidArgument) as caught, named_as("uri"):
        raise InvalidArgument("dataset_id", "no")
    assert caught.value.field == "dataset_id"


async def test_an_import_asks_for_no_less_than_the_operator(
    object_store: ObstoreStore, tmp_path: Path
) -> None:
    policy = PersonalDataPolicy(Mode.REDACT, lambda: load_scanner(scan_options()))
    datasets = DatasetStore(object_store, tmp_path / "spool", 2**20, 2**16, policy)
    with pytest.raises(InvalidArgument) as caught:
        await datasets.import_uri(
            TenantName("acme"), "s3://b/x", "uri", "a", personal_data=Mode.OFF
        )
    assert caught.value.field == "personal_data"
    assert caught.value.reason == "PERSONAL_DATA_MODE_TOO_WEAK"

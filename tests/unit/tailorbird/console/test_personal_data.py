"""What a dataset's page says of personal data."""

from __future__ import annotations

import pytest

from tailorbird.console import words
from tailorbird.console.datasets import _personal
from tailorbird.tuning.v1 import dataset_pb2


@pytest.mark.parametrize(
    ("mode", "said"),
    [(dataset_pb2.PERSONAL_DATA_MODE_REDACT, "redact"), (99, "unknown (99)")],
)
def test_what_was_done_is_said_of_a_later_release_s_mode_too(
    mode: dataset_pb2.PersonalDataMode.ValueType, said: str
) -> None:
    assert words.personal_data(mode) == said
    dataset = dataset_pb2.Dataset()
    dataset.personal_data.mode = mode
    assert _personal(dataset) == f"none found ({said})"

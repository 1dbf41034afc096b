from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving_svc.feedback.redaction import Redactor
from serving_svc.settings import ServingSettings
from tailorbird.personal_data.modes import Mode


@pytest.fixture(scope="package")
def redactor() -> Iterator[Redactor]:
    """With the scanner of serving's settings, whose process takes seconds to start."""
    redactor = Redactor(ServingSettings(base_model="base").scanner, Mode.REDACT)
    yield redactor
    redactor.close()

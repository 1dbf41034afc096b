from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from serving_svc.feedback.redaction import Redactor
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.modes import Mode


@pytest.fixture(scope="package")
def redactor() -> Iterator[Redactor]:
    """With the real scanner, whose process takes seconds to start."""
    redactor = Redactor(partial(load_scanner, scan_options()), Mode.REDACT)
    yield redactor
    redactor.close()

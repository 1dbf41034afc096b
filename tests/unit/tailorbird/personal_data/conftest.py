"""One scanner of the default options: to build one imports Presidio."""

from __future__ import annotations

import pytest

from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.scanner import Scanner


@pytest.fixture(scope="session")
def scanner() -> Scanner:
    return load_scanner(scan_options())

"""What the README and the docs name of this repository is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_NAMED = re.compile(r"`((?:tests|bench|docs|deploy|trainer_svc|serving_svc|shared)/[\w./-]+\.\w+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = set(_NAMED.findall(page.read_text()))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_each_fault_names_its_tests() -> None:
    text = (ROOT / "docs" / "failures.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    told = [row for row in rows if not row.startswith(("| what happens", "|---"))]
    assert len(told) >= 13
    assert all(re.search(r"`tests/\S+\.py`", row) for row in told)

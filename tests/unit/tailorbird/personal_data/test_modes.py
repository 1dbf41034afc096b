"""The order of modes, and what a service without the extra is told."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

from tailorbird.errors import FailedPrecondition
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.modes import Mode


def test_modes_are_ordered_by_what_they_do() -> None:
    weakest_first = [Mode.OFF, Mode.SCAN, Mode.SUBSTITUTE, Mode.REFUSE]
    for one, other in pairwise(weakest_first):
        assert one.is_weaker_than(other)
        assert not other.is_weaker_than(one)
    assert not Mode.REDACT.is_weaker_than(Mode.SUBSTITUTE)
    assert not Mode.SUBSTITUTE.is_weaker_than(Mode.REDACT)


def forget(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in [*sys.modules]:
        if name.startswith("tailorbird.personal_data.") and "loading" not in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)


def test_without_the_extra_a_scanner_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    options = scan_options()
    forget(monkeypatch, "presidio_analyzer")
    with pytest.raises(FailedPrecondition, match=r"pip install 'tailorbird\[privacy\]'") as told:
        load_scanner(options)
    assert told.value.reason == "PRIVACY_EXTRA_MISSING"


def test_without_the_extra_options_say_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, "regex")
    with pytest.raises(FailedPrecondition, match=r"pip install 'tailorbird\[privacy\]'"):
        scan_options()


def test_patterns_bring_no_model_library() -> None:
    code = (
        "import sys; from tailorbird.personal_data.loading import *; load_scanner(scan_options());"
        "assert not {'torch', 'transformers'} & sys.modules.keys();"
        # What was hidden can be imported later.
        "import torch"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=100)

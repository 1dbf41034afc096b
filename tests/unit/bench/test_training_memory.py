from __future__ import annotations

import os

from bench.training.memory import forget_peak, peak_mib, resident_mib


def test_the_peak_is_kept_until_it_is_forgotten() -> None:
    forget_peak()
    before = resident_mib()
    held = b"x" * (96 << 20)
    assert resident_mib() > before + 90
    del held

    assert peak_mib(os.getpid()) > before + 90
    assert resident_mib() < before + 30
    forget_peak()
    assert peak_mib() < before + 30

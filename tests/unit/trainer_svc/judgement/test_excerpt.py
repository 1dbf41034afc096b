"""An excerpt is never larger than asked, in the bytes that JSON takes."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_svc.judgement.excerpt import excerpt


@settings(deadline=None)
@given(st.text(max_size=80), st.integers(10, 60))
def test_an_excerpt_is_a_start_of_at_most_the_size(text: str, size: int) -> None:
    cut = excerpt(text, size)
    assert len(json.dumps(cut)) <= size
    assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))


def test_what_fits_stays_and_what_does_not_is_marked() -> None:
    assert excerpt("abc", 5) == "abc"
    assert excerpt("a" * 100, 30) == "a" * 22 + "…"
    assert excerpt("\0" * 100, 30) == "\0" * 3 + "…"

from __future__ import annotations

import pytest

from serving_svc.adapters.paging import Page
from tailorbird.errors import InvalidArgument


def test_pages_follow_each_other() -> None:
    names = [f"p/{letter}" for letter in "abcde"]
    seen: list[str] = []
    token = ""
    for _ in range(3):
        page, token = Page.parse("p", 2, token).cut(names)
        seen += page
    assert seen == names
    assert token == ""
    first, token = Page.parse("p", 3, "").cut(names[::-1], descending=True)
    rest, _ = Page.parse("p", 3, token).cut(names[::-1], descending=True)
    assert first + rest == names[::-1]


@pytest.mark.parametrize("token", ["x", "AAAA", "!", "cC9h", "é"])
def test_a_foreign_page_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Page.parse("p", 1, token)
    assert caught.value.field == "page_token"


def test_page_sizes() -> None:
    assert Page.parse("p", 0, "").size == 50
    assert Page.parse("p", 5000, "").size == 1000
    with pytest.raises(InvalidArgument):
        Page.parse("p", -1, "")

"""Which page of a listing a query asks for."""

from __future__ import annotations

import pytest

from tailorbird.errors import InvalidArgument
from tailorbird.http.fields import Fields
from trainer_svc.http.pages import Page, read_page


def test_a_page_has_as_many_as_are_asked_for_and_else_the_usual_number() -> None:
    assert read_page(Fields({}), 20) == Page(20, "")
    assert read_page(Fields({"limit": "1000", "after": "x"}), 20) == Page(1000, "x")


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "1.5", "\u0661", "0000000019" + "9" * 5000])
def test_no_page_has_more_than_the_most_however_it_is_written(limit: str) -> None:
    with pytest.raises(InvalidArgument, match="is not 1 to 1000"):
        read_page(Fields({"limit": limit}), 20)

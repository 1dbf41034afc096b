"""Pages of a listing, as OpenAI's clients ask for them and go through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tailorbird.errors import InvalidArgument
from tailorbird.http.fields import Fields, shown

_MOST = 1000
_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Page:
    """At most `limit` items, from the one that follows `after`, an id; "": from the first."""

    limit: int
    after: str


def page_of(request: Request, usual: int) -> Page:
    """Return the page that a query asks for; InvalidArgument for what it has besides."""
    fields = Fields(request.query_params)
    page = read_page(fields, usual)
    fields.end()
    return page


def read_page(fields: Fields, usual: int) -> Page:
    """Take a page out of a query; `usual` is how many items it has that names no number."""
    asked = fields.text("limit") or str(usual)
    digits = asked.isascii() and asked.isdecimal() and len(asked) <= _MAX_DIGITS
    if not (digits and 1 <= int(asked) <= _MOST):
        raise InvalidArgument("limit", f"{shown(asked)} is not 1 to {_MOST}")
    return Page(int(asked), fields.text("after") or "")


def listed(data: Sequence[dict[str, Any]], *, more: bool) -> Response:
    """Return the answer that is one page; `more`: another follows it."""
    told: dict[str, Any] = {"object": "list", "data": data, "has_more": more}
    if data:
        told |= {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
    return JSONResponse(told)

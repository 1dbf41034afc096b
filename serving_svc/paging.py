"""Pages of a listing (AIP-158): the token says after which id of which parent the page begins."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tailorbird.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

_Name = TypeVar("_Name")


@dataclass(frozen=True, slots=True)
class Page:
    """At most `size` names of `parent`, those that come after `after` in the listing's order."""

    parent: str
    size: int
    after: str = ""

    @classmethod
    def parse(cls, parent: str, page_size: int, page_token: str) -> Page:
        """Read a request's fields; InvalidArgument names the wrong one."""
        if page_size < 0:
            raise InvalidArgument("page_size", f"{page_size} is negative")
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        return cls(parent, size, _after(parent, page_token) if page_token else "")

    def cut(self, names: Sequence[_Name], *, descending: bool = False) -> tuple[list[_Name], str]:
        """Return this page of the sorted `names`, and the next page's token or ""."""
        rest = [name for name in names if not self.after or _follows(name, self.after, descending)]
        page = rest[: self.size]
        return page, self._token(page[-1]) if len(rest) > len(page) else ""

    def _token(self, last: object) -> str:
        return base64.urlsafe_b64encode(f"{self.parent}\n{last}".encode()).decode()


def _follows(name: object, after: str, descending: bool) -> bool:
    return str(name) < after if descending else str(name) > after


def _after(parent: str, token: str) -> str:
    try:
        told, _, after = (
            base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("\n")
        )
    except (binascii.Error, ValueError):
        told = after = ""
    if told != parent or not after.startswith(f"{parent}/"):
        raise InvalidArgument("page_token", f"it is not a next_page_token of a listing of {parent}")
    return after

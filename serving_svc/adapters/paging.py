"""Pages of a listing that is sorted by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tailorbird.errors import InvalidArgument
from tailorbird.rpc import paging

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
        after = paging.page_position(parent, page_token) if page_token else ""
        if after and not after.startswith(f"{parent}/"):
            raise InvalidArgument("page_token", f"{after!r} is not in {parent}")
        return cls(parent, paging.page_size(page_size), after)

    def cut(self, names: Sequence[_Name], *, descending: bool = False) -> tuple[list[_Name], str]:
        """Return this page of the sorted `names`, and the next page's token or ""."""
        rest = [name for name in names if not self.after or _follows(name, self.after, descending)]
        page = rest[: self.size]
        return page, paging.page_token(self.parent, str(page[-1])) if len(rest) > len(page) else ""


def _follows(name: object, after: str, descending: bool) -> bool:
    return str(name) < after if descending else str(name) > after

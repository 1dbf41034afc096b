"""Pages of a listing that is sorted by name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tailorbird.errors import InvalidArgument
from tailorbird.rpc import paging

_Name = TypeVar("_Name")
_Item = TypeVar("_Item")

_LOOKS_AT_ONCE = 16
# Names looked at for one page beside those that fill it.
_EXTRA_LOOKS = 500


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
        rest = self._rest(names, descending)
        page = rest[: self.size]
        return page, self._token(page[-1]) if len(rest) > len(page) else ""

    async def fill(
        self,
        names: Sequence[_Name],
        look: Callable[[_Name], Awaitable[_Item | None]],
        *,
        descending: bool = False,
    ) -> tuple[list[_Item], str]:
        """Look at as many of the sorted `names` as it takes to fill the page, some at once.

        Where `look` returns None there is nothing to show, and the next name takes its place. Of
        very many such names the page ends early, with a token (AIP-158 allows it). What `look`
        raises is raised when no other look is under way any more.
        """
        rest = self._rest(names, descending)
        most = self.size + _EXTRA_LOOKS
        found: list[_Item] = []
        looked = 0
        while len(found) < self.size and looked < min(len(rest), most):
            names = rest[looked : looked + min(_LOOKS_AT_ONCE, self.size - len(found))]
            for seen in await asyncio.gather(*map(look, names), return_exceptions=True):
                if isinstance(seen, BaseException):
                    raise seen
                if seen is not None:
                    found.append(seen)
            looked += len(names)
        return found, self._token(rest[looked - 1]) if looked < len(rest) else ""

    def _rest(self, names: Sequence[_Name], descending: bool) -> list[_Name]:
        return [name for name in names if not self.after or _follows(name, self.after, descending)]

    def _token(self, last: object) -> str:
        return paging.page_token(self.parent, str(last))


def _follows(name: object, after: str, descending: bool) -> bool:
    return str(name) < after if descending else str(name) > after

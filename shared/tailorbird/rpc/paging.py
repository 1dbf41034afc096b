"""Pages of a listing (AIP-158): how large one is, and the token that says where it begins."""

from __future__ import annotations

import base64
import binascii

from tailorbird.errors import InvalidArgument

_DEFAULT_SIZE = 50
_MAX_SIZE = 1000


def page_size(asked: int, most: int = _MAX_SIZE) -> int:
    """Return how many items a page has, `most` or fewer; InvalidArgument for a negative number."""
    if asked < 0:
        raise InvalidArgument("page_size", f"{asked} is negative")
    return min(asked or _DEFAULT_SIZE, most)


def page_token(parent: object, position: str) -> str:
    """Return the token of the page of `parent` that begins after `position`."""
    return base64.urlsafe_b64encode(f"{parent}\n{position}".encode()).decode()


def page_position(parent: object, token: str) -> str:
    """Return the position in a token of `parent`; InvalidArgument if it is no such token."""
    try:
        told, separator, position = (
            base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("\n")
        )
    except (binascii.Error, ValueError):
        told = separator = position = ""
    if not separator or told != str(parent):
        raise InvalidArgument("page_token", f"it is not a next_page_token of a listing of {parent}")
    return position

"""Who looks at a page: a tenant and a token, kept in a cookie of the browser and nowhere else.

The cookie holds the token itself. A key to encrypt it with would be state that all replicas of the
console share, and would protect little: scripts cannot read the cookie, other sites cannot send it,
and whoever can take it out of the browser can use it as it is. What ends a token is the services'
tokens file, at once and everywhere.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from starlette.requests import cookie_parser
from starlette.responses import Response

from tailorbird.console.config import Config
from tailorbird.errors import InvalidArgument
from tailorbird.names import check_id, is_id

_MAX_TOKEN_CHARS = 2048
"""Of a token; browsers keep cookies of 4096 bytes."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A tenant, and the token that proves it; "" where the services take calls without one."""

    tenant: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Identity(tenant={self.tenant!r})"

    @classmethod
    def entered(cls, tenant: str, token: str) -> Identity:
        """Return what a person has typed; InvalidArgument names what is wrong, never the token."""
        token = token.strip()
        if len(token) > _MAX_TOKEN_CHARS:
            raise InvalidArgument("token", f"it is longer than {_MAX_TOKEN_CHARS} characters")
        if not (token.isascii() and token.isprintable()):
            raise InvalidArgument("token", "only printable ASCII can be sent")
        return cls(check_id("tenant", tenant.strip()), token)

    @classmethod
    def of(cls, cookies: str, config: Config) -> Identity | None:
        """Return who a request's Cookie header says it is from; None: it says nothing."""
        # http.cookies reads none where another program of this host has set a strange one.
        found = cookie_parser(cookies).get(config.cookie, "")
        tenant, _, encoded = found.partition(".")
        try:
            token = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("ascii")
        except ValueError:
            return None
        if not is_id(tenant) or not token.isprintable():
            return None
        return cls(tenant, token)

    def remember(self, response: Response, config: Config) -> None:
        """Have the browser send this identity, to the console only, until it is closed."""
        encoded = urlsafe_b64encode(self.token.encode()).decode().rstrip("=")
        response.set_cookie(
            config.cookie,
            f"{self.tenant}.{encoded}",
            path="/",
            secure=config.encrypted,
            httponly=True,
            samesite="strict",
        )


def forget(response: Response, config: Config) -> None:
    """Have the browser forget the identity it has."""
    response.delete_cookie(
        config.cookie, path="/", secure=config.encrypted, httponly=True, samesite="strict"
    )

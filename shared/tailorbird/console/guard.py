"""What holds for every request and every answer: whom it is from, and what a page may do."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "frame-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
REPORT_POLICY = "; ".join(
    (
        "sandbox",
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "form-action 'none'",
        "frame-ancestors 'self'",
        "base-uri 'none'",
    )
)
"""Of a report, which a service made: a page of no origin, that runs nothing and fetches nothing."""
_HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    # Not no-referrer: browsers then send "Origin: null" with a form, which proves nothing.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    ("Cache-Control", "no-store"),
)
_ENCRYPTED = (("Strict-Transport-Security", "max-age=31536000"),)
HEALTH = ("/livez", "/readyz")
_TAKEN = ("GET", "HEAD", "POST")


class Guard:
    """Refuses what another site may have sent, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], *, encrypted: bool) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._headers = (*_HEADERS, *(_ENCRYPTED if encrypted else ()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers:
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        answer = self._app if refusal is None else refusal
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        # Probes call by whatever address the machine has.
        if scope["path"] in HEALTH:
            return None
        if _host(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse(
                "This console is not called by that name; --allowed-host adds one.\n", 421
            )
        if scope["method"] not in _TAKEN:
            return PlainTextResponse("Method not allowed.\n", 405)
        if scope["method"] == "POST" and not is_own(headers):
            return PlainTextResponse(
                "Refused: the request does not come from a page of this console.\n", 403
            )
        return None


def is_own(headers: Headers) -> bool:
    """Tell whether a browser says that one of our pages has sent a request.

    By Sec-Fetch-Site, which no page can set; from browsers that do not send it (older ones, and all
    of them where there is no TLS and the host is not loopback) by Origin, whose host must be the
    one that was called. The scheme is not compared: a proxy may have ended TLS.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    try:
        origin = urlsplit(headers.get("origin", ""))
    except ValueError:
        return False
    return bool(origin.netloc) and origin.netloc.lower() == headers.get("host", "").lower()


def _host(value: str) -> str:
    """Return a Host header's name, lower-case, without the port."""
    try:
        name = urlsplit(f"//{value}").hostname or ""
    except ValueError:
        return ""
    return f"[{name}]" if ":" in name else name

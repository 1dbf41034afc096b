"""One request of a page: who asks, for which tenant, and how the answer is made.

Handlers are plain functions of a Visit. They run on threads, where they may call the services.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qsl, quote

from anyio import to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tailorbird.console.backend import Backend, Doors
from tailorbird.console.config import Config
from tailorbird.console.failure import Failure, failure_of
from tailorbird.console.identity import Identity
from tailorbird.console.templating import render
from tailorbird.errors import InvalidArgument, TailorbirdError
from tailorbird.names import TenantName, check_id

_log = logging.getLogger(__name__)

_MAX_FORM_BYTES = 2**20
_MAX_FIELDS = 256
_STALL_SECONDS = 60.0
"""A browser that sends nothing for so long is waited for no more."""


class Visit:
    """A request, and the services with its caller's token."""

    def __init__(self, request: Request, form: list[tuple[str, str]]) -> None:
        self.request = request
        self.config: Config = request.app.state.config
        self.identity = Identity.of(request.headers.get("cookie", ""), self.config)
        self.doors: Doors = request.app.state.doors
        token = self.identity.token if self.identity else ""
        self.backend = Backend(self.config, token, self.doors)
        self._form = form
        self._path = request.path_params

    @property
    def parent(self) -> str:
        """tenants/{tenant}, of the page's address."""
        return str(TenantName(check_id("tenant", self._path["tenant"])))

    def name(self, *collections: str) -> str:
        """Return the full name of what the address leads to, whose parts it has by `collections`.

        InvalidArgument if a part cannot be one: names go on to the services as they are.
        """
        parts = [self.parent]
        for collection in collections:
            parts += [collection, self._path[collection]]
        return "/".join(parts)

    def field(self, name: str, default: str = "") -> str:
        """Return a form's field, the first of that name."""
        return next((value for key, value in self._form if key == name), default)

    def fields(self, name: str) -> list[str]:
        """Return every field of that name."""
        return [value for key, value in self._form if key == name]

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return a field as a number; InvalidArgument outside of the limits."""
        said = self.field(name).strip()
        try:
            value = float(said) if said else default
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise InvalidArgument(name, f"{said[:40]!r} is not a number from {low:g} to {high:g}")
        return value

    def query(self, name: str) -> str:
        """Return a parameter of the address, "" without it."""
        return self.request.query_params.get(name, "")

    def show(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page."""
        return HTMLResponse(self.text(template, **values), status)

    def text(self, template: str, **values: Any) -> str:
        """Return what a template says of `values`."""
        tenant = self._path.get("tenant", "") or (self.identity.tenant if self.identity else "")
        return render(
            template,
            tenant=tenant,
            signed_in=self.identity is not None,
            here=self.request.url.path,
            **values,
        )

    def go(self, *parts: str) -> Response:
        """Lead to the tenant's page of these parts, after something was done."""
        return RedirectResponse("/".join(["", self.parent, *map(quote, parts)]), 303)


Handler = Callable[[Visit], Response]


def page(
    handler: Handler, *, changes: bool = False, lasts: bool = False
) -> Callable[[Request], Any]:
    """Return the endpoint of a handler: its form read, its errors told, its calls ended.

    Who leaves ends them, unless the handler `changes` something. One that `lasts` for minutes, as
    generations and promotions may, takes none of the threads that answer pages.
    """

    async def endpoint(request: Request) -> Response:
        try:
            form = await form_of(request) if request.method == "POST" else []
        except ClientDisconnect:
            return Response(status_code=400)
        except TimeoutError:
            return await run_in_threadpool(told, Visit(request, []), stalled())
        if form is None:
            failure = Failure(
                413, "INVALID_ARGUMENT", "FORM_TOO_LARGE", f"at most {_MAX_FORM_BYTES} bytes"
            )
            return await run_in_threadpool(told, Visit(request, []), failure)
        visit = Visit(request, form)
        limiter = request.app.state.lasting if lasts else None
        leaving = None if changes else asyncio.create_task(_end_with(request, visit))
        try:
            return await to_thread.run_sync(answered, handler, visit, limiter=limiter)
        finally:
            if leaving is not None:
                leaving.cancel()

    return endpoint


async def _end_with(request: Request, visit: Visit) -> None:
    """End a visit's calls when its browser leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    visit.backend.close()


def answered(handler: Handler, visit: Visit) -> Response:
    """Return a handler's answer, or the page that says why there is none."""
    try:
        return handler(visit)
    except TailorbirdError as error:
        return told(visit, failure_of(error))
    except Exception:
        return told(visit, unexpected())
    finally:
        visit.backend.close()


def unexpected() -> Failure:
    """Return what is said of an error that nobody foresaw, which is logged with the same id."""
    found = secrets.token_hex(8)
    _log.exception("a page failed: %s", found)
    return Failure(500, "INTERNAL", "INTERNAL", f"the console's log has the cause, under {found}")


def told(visit: Visit, failure: Failure) -> Response:
    """Return the page of a failure; who is not known to the services is asked to sign in."""
    if failure.status == 401 and visit.request.method == "GET":
        here = quote(visit.request.url.path)
        return RedirectResponse(f"/sign-in?next={here}", 303)
    # What a form has asked for, a link cannot ask for again.
    again = visit.request.url.path if visit.request.method == "GET" else ""
    return visit.show("failure.html", failure.status, failure=failure, again=again)


def stalled() -> Failure:
    """Return what is said where a browser has stopped to send."""
    message = f"nothing has come for {_STALL_SECONDS:g} seconds"
    return Failure(408, "DEADLINE_EXCEEDED", "REQUEST_STALLED", message)


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """Yield a request's body as it comes; TimeoutError if it stops before its end.

    ClientDisconnect if the browser leaves.
    """
    body = request.stream()
    while True:
        async with asyncio.timeout(_STALL_SECONDS):
            part = await anext(body, None)
        if part is None:
            return
        yield part


async def form_of(request: Request) -> list[tuple[str, str]] | None:
    """Return an URL-encoded form's fields; None if it is too large."""
    body = bytearray()
    async for chunk in body_of(request):
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            return None
    try:
        return parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict"
        )
    except ValueError:
        return []

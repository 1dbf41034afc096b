"""The console as a Starlette application: which address leads to which page."""

from __future__ import annotations

from typing import Any

from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tailorbird.console import adapters, answering, chat, datasets, jobs, signing, upload
from tailorbird.console.backend import Doors
from tailorbird.console.config import Config
from tailorbird.console.failure import Failure
from tailorbird.console.guard import Guard
from tailorbird.console.live import Streams
from tailorbird.console.templating import STATIC, static
from tailorbird.console.visit import Handler, Visit, page, told

_TENANT = "/tenants/{tenant}"
_JOB = _TENANT + "/jobs/{jobs}"
_DATASET = _TENANT + "/datasets/{datasets}"
_ADAPTER = _TENANT + "/adapters/{adapters}"
_VERSION = _ADAPTER + "/versions/{versions}"
_KEPT_SECONDS = 86_400
_MOST_LASTING = 40
"""Answers without JavaScript, and changes, at a time; more wait."""

_SHOWN: dict[str, Handler] = {
    "/": signing.home,
    "/sign-in": signing.show_sign_in,
    _TENANT: signing.home_of_tenant,
    _TENANT + "/jobs": jobs.list_jobs,
    _JOB: jobs.show_job,
    _TENANT + "/datasets": datasets.list_datasets,
    _DATASET: datasets.show_dataset,
    _DATASET + "/report": datasets.report,
    _TENANT + "/adapters": adapters.list_adapters,
    _ADAPTER: adapters.show_adapter,
    _VERSION: adapters.show_version,
    _VERSION + "/report": adapters.report,
    _TENANT + "/residency": adapters.show_residency,
    _TENANT + "/chat": chat.show_chat,
}
_ENTERED: dict[str, Handler] = {
    "/sign-in": signing.sign_in,
    "/sign-out": signing.sign_out,
}
_DONE: dict[str, Handler] = {
    _JOB + "/cancel": jobs.cancel,
    _JOB + "/pause": jobs.pause,
    _JOB + "/resume": jobs.resume,
    _JOB + "/delete": jobs.delete,
    _DATASET + "/delete": datasets.delete,
    _VERSION + "/promote": adapters.promote,
    _ADAPTER + "/rollback": adapters.roll_back,
    _ADAPTER + "/split": adapters.split,
}
_OWN: tuple[Route, ...] = (
    Route(_JOB + "/live", jobs.follow, methods=["GET"]),
    Route(_TENANT + "/datasets", upload.upload, methods=["POST"]),
    Route(_TENANT + "/chat", page(chat.ask, lasts=True), methods=["POST"]),
    Route(_TENANT + "/chat/answer", answering.answer, methods=["POST"]),
)


def console(
    config: Config, streams: Streams | None = None, uploads: upload.Uploads | None = None
) -> Starlette:
    """Return the application, which holds nothing but what `config` says."""
    app = Starlette(
        routes=[
            Route("/livez", _alive, methods=["GET"]),
            Route("/readyz", _alive, methods=["GET"]),
            Route("/static/{name}", _static, methods=["GET"]),
            *_OWN,
            *(Route(path, page(handler), methods=["GET"]) for path, handler in _SHOWN.items()),
            *(Route(path, page(handler), methods=["POST"]) for path, handler in _ENTERED.items()),
            *(
                Route(path, page(handler, changes=True, lasts=True), methods=["POST"])
                for path, handler in _DONE.items()
            ),
        ],
        middleware=[Middleware(Guard, hosts=config.hosts, encrypted=config.encrypted)],
        exception_handlers={404: _missing},
    )
    # It would lead to this process's own idea of the address: behind a proxy with TLS, to http.
    app.router.redirect_slashes = False
    app.state.config = config
    app.state.doors = Doors(config)
    app.state.streams = streams or Streams()
    app.state.lasting = CapacityLimiter(_MOST_LASTING)
    app.state.uploads = uploads or upload.Uploads()
    return app


async def _alive(_: Request) -> Response:
    # It has no state and needs nobody: while a service is away, its pages say so.
    return PlainTextResponse("ok\n")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return await _missing(request, None)
    return Response(
        static(name),
        media_type=STATIC[name],
        headers={"Cache-Control": f"public, max-age={_KEPT_SECONDS}"},
    )


async def _missing(request: Request, _: Any) -> Response:
    failure = Failure(404, "NOT_FOUND", "NOT_FOUND", f"there is no page {request.url.path}")
    return told(Visit(request, []), failure)

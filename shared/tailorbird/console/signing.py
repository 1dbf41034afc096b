"""The way in and out: a tenant, and a token where the services ask for one."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse, Response

from tailorbird.client import CallError
from tailorbird.console.backend import Backend
from tailorbird.console.failure import Failure, failure_of
from tailorbird.console.identity import Identity, forget
from tailorbird.console.visit import Visit
from tailorbird.errors import TailorbirdError
from tailorbird.tuning.v1 import job_pb2

_OURS = re.compile(r"/tenants/[a-zA-Z0-9/-]{1,500}")


def home(visit: Visit) -> Response:
    """Lead to the jobs of the tenant that is known, or to the page that asks for one."""
    tenant = visit.identity.tenant if visit.identity else visit.config.tenant
    return RedirectResponse(f"/tenants/{tenant}/jobs" if tenant else "/sign-in", 303)


def home_of_tenant(visit: Visit) -> Response:
    """Lead to the tenant's jobs."""
    return visit.go("jobs")


def show_sign_in(visit: Visit) -> Response:
    """Ask who it is."""
    return _asked(visit, 200, None, visit.query("next"))


def sign_in(visit: Visit) -> Response:
    """Remember who it is, once the trainer has taken the token for the tenant."""
    wanted = _ours(visit.field("next"))
    try:
        identity = Identity.entered(visit.field("tenant"), visit.field("token"))
        _check(visit, identity)
    except TailorbirdError as error:
        failure = failure_of(error)
        return _asked(visit, failure.status, failure, wanted, visit.field("tenant"))
    home = f"/tenants/{identity.tenant}"
    # Who was sent here from a tenant's page goes on there; another tenant's is of no use.
    going = wanted if wanted.startswith(f"{home}/") else f"{home}/jobs"
    response = RedirectResponse(going, 303)
    identity.remember(response, visit.config)
    return response


def sign_out(visit: Visit) -> Response:
    """Have the browser forget who it is."""
    response = RedirectResponse("/sign-in", 303)
    forget(response, visit.config)
    return response


def _check(visit: Visit, identity: Identity) -> None:
    backend = Backend(visit.config, identity.token, visit.doors)
    try:
        parent = f"tenants/{identity.tenant}"
        backend.list_jobs(parent, job_pb2.JOB_STATE_UNSPECIFIED, "", "")
    except CallError as error:
        # A trainer that is away says nothing against the token: the pages say that it is.
        if failure_of(error).status not in (503, 504):
            raise
    finally:
        backend.close()


def _asked(
    visit: Visit, status: int, failure: Failure | None, wanted: str, typed: str = ""
) -> Response:
    known = visit.identity.tenant if visit.identity else visit.config.tenant
    # Who comes from a tenant's page means that tenant.
    wanted = _ours(wanted)
    meant = wanted.split("/")[2] if wanted else known
    return visit.show(
        "sign_in.html",
        status,
        failure=failure,
        wanted=wanted,
        typed=typed or meant,
        trainer=visit.config.trainer,
    )


def _ours(address: str) -> str:
    """Return an address of this console's own tenant pages, or ""."""
    path = urlsplit(address).path
    return path if path == address and _OURS.fullmatch(path) else ""

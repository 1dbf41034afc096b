"""Whose names a request means where it gives them short: the tenant, from headers and token."""

from __future__ import annotations

from collections.abc import Mapping

from tailorbird.errors import InvalidArgument
from tailorbird.metadata import TENANT
from tailorbird.names import TenantName, check_id, is_id
from tailorbird.rpc.auth import Caller

PROJECT = "openai-project"
"""What OpenAI's clients send for `project=`."""


def tenant_of(headers: Mapping[str, str], caller: Caller) -> TenantName:
    """Return the tenant that a request of `caller` is for.

    `x-tailorbird-tenant` says it ("acme" or "tenants/acme"); without it, it is the caller's only
    tenant; a caller of several may name it by OpenAI's `project` too. (A caller of one never does:
    its clients may send a project that was meant for OpenAI.) InvalidArgument (TENANT_NEEDED) if
    nothing says it, NotFound if it is not the caller's.
    """
    given = headers.get(TENANT, "")
    project = headers.get(PROJECT, "")
    if given:
        tenant = TenantName(check_id(TENANT, given.removeprefix("tenants/")))
    elif caller.tenants is not None and len(caller.tenants) == 1:
        tenant = TenantName(next(iter(caller.tenants)))
    elif is_id(project):
        tenant = TenantName(project)
    else:
        raise InvalidArgument(
            TENANT,
            "this token is not one tenant's alone: name the tenant by this header, or by the "
            "project of OpenAI's clients (where a model is asked for, its whole name does, too: "
            "tenants/{tenant}/...)",
            reason="TENANT_NEEDED",
        )
    caller.check(tenant)
    return tenant

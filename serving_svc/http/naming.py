"""Which weights a model's name means."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from serving_svc.api.convert_generation import REWRITE_METADATA
from tailorbird.errors import InvalidArgument, NotFound
from tailorbird.http.fields import shown
from tailorbird.http.tenant import tenant_of
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.rpc.auth import Caller


@dataclass(frozen=True, slots=True)
class Named:
    """Who is to answer: `adapter` None means the tenant's use of the base model."""

    tenant: TenantName
    adapter: AdapterName | None = None
    version: VersionName | None = None


def named(model: str, headers: Mapping[str, str], caller: Caller, base: str) -> Named:
    """Return what `model` means to `caller`; `base` is the base model's name.

    That is the base's name, tenants/{tenant}/adapters/{adapter}, or {adapter} alone for the tenant
    of `headers` and token; after an adapter may stand /versions/{version}. NotFound
    (MODEL_NOT_FOUND) for what is no name, and for what is another tenant's.
    """
    if model == base:
        return Named(tenant_of(headers, caller))
    full = model
    if not model.startswith("tenants/"):
        full = f"{tenant_of(headers, caller)}/adapters/{model}"
    try:
        found = _parsed(full)
        caller.check(found.tenant)
    except (InvalidArgument, NotFound):
        raise no_such_model(model) from None
    return found


def chosen(model: str, headers: Mapping[str, str], caller: Caller, base: str) -> Named:
    """Return what answers: `model`, or what an inference gateway chose in its place.

    As for gRPC, the version that `model` names stays if it is one of the chosen adapter's.
    """
    for header in REWRITE_METADATA:
        if choice := headers.get(header):
            found = named(choice, headers, caller, base)
            if found.adapter is None or found.version is not None:
                return found
            with suppress(NotFound, InvalidArgument):
                asked = named(model, headers, caller, base)
                if asked.adapter == found.adapter:
                    return asked
            return found
    return named(model, headers, caller, base)


def no_such_model(model: str) -> NotFound:
    """Return the one error for a model that is not there, or not the caller's to know of."""
    return NotFound(f"the model {shown(model)}", reason="MODEL_NOT_FOUND")


def _parsed(name: str) -> Named:
    if "/versions/" in name:
        version = VersionName.parse(name, "model")
        return Named(TenantName(version.tenant), version.adapter_name, version)
    adapter = AdapterName.parse(name, "model")
    return Named(TenantName(adapter.tenant), adapter)

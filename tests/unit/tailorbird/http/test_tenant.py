"""Whose short names a request means."""

from __future__ import annotations

import pytest

from tailorbird.errors import InvalidArgument, NotFound
from tailorbird.http.tenant import tenant_of
from tailorbird.rpc.auth import LOCAL_CALLER, Caller

ONE = Caller("one", frozenset({"acme"}))
TWO = Caller("two", frozenset({"acme", "globex"}))


@pytest.mark.parametrize(
    ("headers", "caller", "tenant"),
    [
        ({}, ONE, "acme"),
        ({"openai-project": "proj_abc"}, ONE, "acme"),
        ({"openai-project": "initech"}, ONE, "acme"),
        ({"x-tailorbird-tenant": "acme"}, ONE, "acme"),
        ({"x-tailorbird-tenant": "tenants/globex"}, TWO, "globex"),
        ({"openai-project": "globex"}, TWO, "globex"),
        ({"openai-project": "acme", "x-tailorbird-tenant": "globex"}, TWO, "globex"),
        ({"x-tailorbird-tenant": "initech"}, LOCAL_CALLER, "initech"),
    ],
)
def test_header_then_token_then_project(
    headers: dict[str, str], caller: Caller, tenant: str
) -> None:
    assert tenant_of(headers, caller).tenant == tenant


@pytest.mark.parametrize("caller", [TWO, LOCAL_CALLER])
@pytest.mark.parametrize("headers", [{}, {"openai-project": "proj_abc"}])
def test_nothing_says_it(headers: dict[str, str], caller: Caller) -> None:
    with pytest.raises(InvalidArgument, match="x-tailorbird-tenant") as caught:
        tenant_of(headers, caller)
    assert caught.value.reason == "TENANT_NEEDED"


@pytest.mark.parametrize("header", ["x-tailorbird-tenant", "openai-project"])
def test_another_tenant_does_not_exist(header: str) -> None:
    with pytest.raises(NotFound, match="tenants/initech does not exist"):
        tenant_of({header: "initech"}, TWO)


def test_what_is_no_id_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="is not an id"):
        tenant_of({"x-tailorbird-tenant": "../x"}, LOCAL_CALLER)

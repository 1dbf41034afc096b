"""/v1/models: what is listed, and what does not exist."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.requests import Request

from serving_svc.adapters.paging import Page
from serving_svc.adapters.service import AdapterState, PublishedVersion
from serving_svc.http.models import Models
from tailorbird.errors import InvalidArgument, NotFound
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.routes import Route, RoutedVersion
from tailorbird.rpc.auth import LOCAL_CALLER, Caller, set_current_caller
from tests.unit.serving_svc.fakes import manifest

NOW = datetime(2026, 11, 24, tzinfo=UTC)
BASE = "demo/base"
VERSION = VersionName.parse("tenants/acme/adapters/a-1/versions/20261122T100000-job-1")
GONE = VersionName.parse("tenants/acme/adapters/a-1/versions/20261122T100000-job-2")
UNREAD = VersionName.parse("tenants/acme/adapters/a-1/versions/20261122T100000-job-3")
ROUTED, UNROUTED = AdapterName("acme", "a-1"), AdapterName("acme", "b")


def _route(adapter: AdapterName) -> Route:
    version = VersionName(adapter.tenant, adapter.adapter, VERSION.version)
    routed = (RoutedVersion(version=version.version, weight=1),)
    return Route(generation=1, versions=routed, reason="r", actor="a", create_time=NOW, nonce="n")


class Registry:
    """Two tenants' adapters, in pages of two."""

    def __init__(self) -> None:
        self.adapters = [
            *(AdapterName("acme", f"a-{number}") for number in range(1, 6)),
            UNROUTED,
            AdapterName("globex", "a-1"),
        ]

    def _state(self, name: AdapterName) -> AdapterState:
        return AdapterState(name, None if name == UNROUTED else _route(name), 1, {})

    async def list_adapters(self, tenant: TenantName, page: Page) -> tuple[list[AdapterState], str]:
        names = [name for name in self.adapters if name.tenant == tenant.tenant]
        found, token = Page(page.parent, 2, page.after).cut(names)
        return [self._state(name) for name in found], token

    async def get_adapter(self, name: AdapterName) -> AdapterState:
        if name not in self.adapters:
            raise NotFound(name)
        return self._state(name)

    async def get_version(self, name: VersionName) -> PublishedVersion:
        if name == GONE:
            return PublishedVersion(name, manifest(name), delete_time=NOW)
        if name == UNREAD:
            return PublishedVersion(name, None)
        if name == VERSION:
            return PublishedVersion(name, manifest(name))
        raise NotFound(name)


MODELS = Models(Registry(), BASE, 2048, NOW)


def _request(path: dict[str, str], headers: dict[str, str]) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "path_params": path})


async def every(caller: Caller, **headers: str) -> list[Any]:
    set_current_caller(caller)
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = json.loads(bytes((await MODELS.every(_request({}, told))).body))
    assert answer["object"] == "list"
    return list(answer["data"])


async def one(model: str, *tenants: str) -> Any:
    set_current_caller(Caller("c", frozenset(tenants)))
    return json.loads(bytes((await MODELS.one(_request({"model": model}, {}))).body))


def ids(found: Iterable[Any]) -> list[str]:
    return [model["id"] for model in found]


async def test_all_pages_of_the_callers_routed_adapters_base_first() -> None:
    found = await every(Caller("acme", frozenset({"acme"})))
    mine = [f"tenants/acme/adapters/a-{number}" for number in range(1, 6)]
    assert ids(found) == [BASE, *mine]
    assert found[1] == {
        "id": mine[0],
        "object": "model",
        "created": int(NOW.timestamp()),
        "owned_by": "tenants/acme",
        "parent": BASE,
        "max_model_len": 2048,
    }


async def test_of_several_tenants_all_unless_one_is_named() -> None:
    both = Caller("both", frozenset({"globex", "acme"}))
    globex = "tenants/globex/adapters/a-1"
    assert ids(await every(both))[-1] == globex
    assert len(await every(both)) == 7
    assert ids(await every(both, x_tailorbird_tenant="globex")) == [BASE, globex]
    with pytest.raises(NotFound):
        await every(both, x_tailorbird_tenant="other")


async def test_who_acts_for_all_names_one() -> None:
    with pytest.raises(InvalidArgument, match="x-tailorbird-tenant"):
        await every(LOCAL_CALLER)
    assert len(await every(LOCAL_CALLER, openai_project="globex")) == 2


async def test_one() -> None:
    # Whoever asks, and for whatever tenant.
    assert (await one(BASE, "acme", "globex"))["id"] == BASE
    assert (await one("a-1", "acme"))["id"] == str(ROUTED)
    assert (await one(str(VERSION), "acme"))["id"] == str(VERSION)


@pytest.mark.parametrize(
    "model",
    [str(UNROUTED), "nothing", str(GONE), str(UNREAD), f"{VERSION}-9", "no/model", ""],
)
async def test_what_is_not_there(model: str) -> None:
    with pytest.raises(NotFound) as caught:
        await one(model, "acme")
    assert caught.value.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("model", [str(ROUTED), str(VERSION)])
async def test_anothers_is_told_as_what_nobody_has(model: str) -> None:
    with pytest.raises(NotFound) as caught:
        await one(model, "globex")
    assert caught.value.reason == "MODEL_NOT_FOUND"

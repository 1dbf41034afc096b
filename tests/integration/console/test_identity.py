"""Whom a page is for: the token's way, and what other sites and other names are refused."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tailorbird import client
from tailorbird.console.backend import Backend, Doors
from tailorbird.console.config import Config, checked
from tailorbird.console.identity import Identity
from tailorbird.errors import InvalidArgument
from tests.integration.console.conftest import OWN, Site, Start
from tests.integration.console.world import TOKEN, World

TENANT = "/tenants/acme"


@pytest.fixture
def guarded(site: Site, world: World) -> Site:
    """A console whose services ask for tokens."""
    world.token = TOKEN
    return site


def test_who_is_not_known_is_asked_to_sign_in_and_comes_back(guarded: Site) -> None:
    first = guarded.get(f"{TENANT}/adapters/support")
    assert first.status == 303
    assert first.headers["location"] == f"/sign-in?next={TENANT}/adapters/support"
    page = guarded.get(first.headers["location"])
    assert f'value="{TENANT}/adapters/support"' in page.text
    fields = {"tenant": "acme", "token": TOKEN, "next": f"{TENANT}/adapters/support"}
    answer = guarded.post("/sign-in", fields)
    assert answer.headers["location"] == f"{TENANT}/adapters/support"


def test_the_token_is_in_a_cookie_that_no_script_and_no_other_site_has(
    guarded: Site, world: World
) -> None:
    cookie = guarded.sign_in(TOKEN).headers["set-cookie"]
    assert {part.strip() for part in cookie.split(";")[1:]} == {
        "HttpOnly",
        "Path=/",
        "SameSite=strict",
    }
    assert guarded.who() == Identity("acme", TOKEN)
    assert guarded.get(f"{TENANT}/jobs").status == 200
    assert world.metadata[-1]["authorization"] == f"Bearer {TOKEN}"
    gone = guarded.post("/sign-out").headers["set-cookie"]
    assert "Max-Age=0" in gone
    assert TOKEN not in gone


def test_with_tls_the_cookie_is_for_tls_and_this_host_alone(
    services: str, start: Start, world: World
) -> None:
    world.token = TOKEN
    site = start(Config(trainer=services, serving=services, encrypted=True))
    answer = site.sign_in(TOKEN)
    assert answer.headers["set-cookie"].startswith("__Host-tailorbird-")
    assert "=acme." in answer.headers["set-cookie"]
    assert "Secure" in answer.headers["set-cookie"]
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_the_token_is_in_no_page_no_address_and_no_log(
    guarded: Site, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    guarded.sign_in(TOKEN)
    paths = ("jobs", "jobs/support-1121", "datasets", "adapters", "residency", "chat", "nothing")
    for path in paths:
        guarded.get(f"{TENANT}/{path}")
    guarded.post("/sign-in", {"tenant": "acme", "token": f"{TOKEN}-wrong"})
    guarded.post("/sign-in", {"tenant": "NOT", "token": TOKEN})
    for answer in guarded.answers:
        assert TOKEN not in answer.text
        assert TOKEN not in answer.headers.get("location", "")
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(Identity("acme", TOKEN))


def test_a_token_that_is_not_known_is_said_to_be(guarded: Site) -> None:
    answer = guarded.sign_in("wrong")
    assert answer.status == 401
    assert "the token is not known" in answer.text
    assert guarded.who() is None
    assert guarded.sign_in("grüße").status == 400


def test_another_tenant_s_page_is_as_one_that_is_not_there(guarded: Site) -> None:
    guarded.sign_in(TOKEN)
    theirs = guarded.get("/tenants/rival/jobs/support-1121")
    missing = guarded.get(f"{TENANT}/jobs/missing")
    assert theirs.status == missing.status == 404
    for answer, name in ((theirs, "tenants/rival/jobs/support-1121"), (missing, "missing")):
        assert "This does not exist" in answer.text
        assert name in answer.text
    for path in ("jobs", "datasets", "adapters", "residency", "chat"):
        assert guarded.get(f"/tenants/rival/{path}").status == 404
    assert guarded.post("/tenants/rival/datasets/data/delete").status == 404


@pytest.mark.parametrize(
    "address",
    ["https://evil.example/", "//evil.example/x", "/tenants/acme/../../x", "javascript:alert(1)"],
)
def test_signing_in_leads_to_a_page_of_ours_alone(site: Site, address: str) -> None:
    answer = site.post("/sign-in", {"tenant": "acme", "token": "", "next": address})
    assert answer.headers["location"] == f"{TENANT}/jobs"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:{port}"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ],
)
def test_what_another_site_sends_does_nothing(
    site: Site, world: World, headers: dict[str, str]
) -> None:
    sent = {name: value.replace("{port}", str(site.port)) for name, value in headers.items()}
    for path in ("jobs/one/cancel", "datasets", "chat", "chat/answer"):
        answer = site.post(f"{TENANT}/{path}", {}, sent or {"X": "y"})
        assert answer.status == 403
    assert world.requests == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE", "OPTIONS"])
def test_what_no_page_of_ours_asks_for_is_refused_anywhere(site: Site, method: str) -> None:
    for path in (f"{TENANT}/jobs", "/nothing"):
        assert site.ask(method, path, None, OWN).status == 405


def test_an_old_browser_proves_itself_by_its_origin(site: Site) -> None:
    own = {"Origin": f"http://127.0.0.1:{site.port}"}
    assert site.post(f"{TENANT}/jobs/one/cancel", {}, own).status == 303


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "", "localhost.evil", "[::2]"]
)
def test_a_page_that_makes_its_own_name_lead_here_is_refused(site: Site, host: str) -> None:
    answer = site.get(f"{TENANT}/jobs", Host=host)
    assert answer.status in (400, 421)
    assert "support" not in answer.text
    assert site.get("/readyz", Host="10.1.2.3:8080").status == 200


def test_names_that_are_allowed_are_served(services: str, start: Start, world: World) -> None:
    world.token = TOKEN
    config = checked(
        Config(services, services),
        "127.0.0.1",
        has_certificate=False,
        behind_tls=True,
        names=["Console.example.com"],
    )
    site = start(config)
    assert site.get("/sign-in", Host="console.example.com").status == 200
    assert site.get("/sign-in", Host="other.example.com").status == 421


def test_a_console_that_others_reach_passes_nothing_to_services_without_tokens(
    services: str, start: Start, world: World
) -> None:
    site = start(Config(services, services, exposed=True))
    for path in ("jobs", "adapters"):
        answer = site.get(f"{TENANT}/{path}")
        assert answer.status == 409
        assert "SERVICE_WITHOUT_TOKENS" in answer.text
    world.token = TOKEN
    assert site.sign_in(TOKEN).status == 303
    assert site.get(f"{TENANT}/adapters").status == 200


def test_a_service_that_hangs_while_it_is_asked_keeps_nobody_else_waiting() -> None:
    doors = Doors(Config("trainer:1", "serving:1", exposed=True))
    asking, go_on = threading.Event(), threading.Event()

    def hang(_: Backend) -> None:
        asking.set()
        assert go_on.wait(30)
        raise client.Unauthenticated(grpc.StatusCode.UNAUTHENTICATED, "who?")

    def refuse(_: Backend) -> None:
        raise client.Unauthenticated(grpc.StatusCode.UNAUTHENTICATED, "who?")

    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(doors.check, "trainer:1", hang)
        assert asking.wait(30)
        threads.submit(doors.check, "serving:1", refuse).result(30)
        assert not slow.done()
        go_on.set()
        slow.result(30)


@pytest.mark.parametrize(
    ("host", "behind_tls", "names", "wrong"),
    [("0.0.0.0", False, ["a.example"], "--host"), ("10.0.0.1", True, [], "--allowed-host")],
)
def test_an_address_that_others_reach_needs_tls_and_names(
    host: str, behind_tls: bool, names: list[str], wrong: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        checked(Config("t", "s"), host, has_certificate=False, behind_tls=behind_tls, names=names)
    assert raised.value.field == wrong


def test_a_form_that_is_too_large_is_refused(site: Site) -> None:
    answer = site.ask("POST", f"{TENANT}/chat", b"text=" + b"x" * 2**20, OWN)
    assert answer.status == 413
    assert "FORM_TOO_LARGE" in answer.text

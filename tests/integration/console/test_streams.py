"""What goes on while one looks, or while a browser still sends."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from typing import Any

import httpx
import pytest
from anyio import to_thread

from tailorbird.console import visit
from tailorbird.console.app import console
from tailorbird.console.backend import Backend
from tailorbird.console.config import Config
from tailorbird.console.upload import Uploads
from tailorbird.errors import Aborted
from tests.integration.console.conftest import OWN, Site, Start
from tests.integration.console.world import VERSIONS, World

TENANT = "/tenants/acme"
BOUNDARY = "----form"


def _form(content: bytes, **fields: str) -> bytes:
    parts = b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    return parts + file.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def _upload(site: Site, body: bytes) -> tuple[int, str, str]:
    headers = {**OWN, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = site.ask("POST", f"{TENANT}/datasets", body, headers)
    return answer.status, answer.headers.get("location", ""), answer.text


def test_a_job_that_goes_on_is_drawn_anew_until_it_ends(site: Site, world: World) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.request("GET", f"{TENANT}/jobs/support-1121/live")
    response = connection.getresponse()
    assert response.getheader("content-type", "").startswith("text/event-stream")
    first = _until(response, b"\n\n")
    assert b"event: job\n" in first
    assert b"running</span>" in first
    assert first.count(b"<polyline") == 4, "it shows less than the page did"
    world.more.set()
    rest = response.read()
    assert b"succeeded</span>" in rest
    assert rest.endswith(b"event: end\ndata: \n\n")
    connection.close()


def _until(response: http.client.HTTPResponse, end: bytes) -> bytes:
    got = b""
    while not got.endswith(end):
        got += response.read(1)
    return got


def _hear(browser: socket.socket, word: bytes) -> None:
    heard = b""
    while word not in heard:
        heard += browser.recv(4096)


def test_who_leaves_a_live_page_ends_its_watch(site: Site, world: World) -> None:
    with socket.create_connection(("127.0.0.1", site.port)) as browser:
        browser.sendall(
            f"GET {TENANT}/jobs/support-1121/live HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        _hear(browser, b"event: job")
    assert world.left.wait(20), "the call goes on"


def test_a_live_page_of_a_job_that_is_not_there_says_so(site: Site) -> None:
    answer = site.get("/tenants/acme/jobs/missing/live")
    assert "event: lost\n" in answer.text or "event: job\n" not in answer.text


def test_a_file_goes_on_to_the_trainer_whole(site: Site, world: World) -> None:
    content = b'{"prompt": "a", "completion": "b"}\r\n' * 90_000
    status, location, _ = _upload(site, _form(content, dataset_id="chats", personal_data="scan"))
    assert (status, location) == (303, f"{TENANT}/datasets/chats")
    assert bytes(world.uploaded) == content
    assert world.requests[-1].dataset_id == "chats"


def test_a_file_that_breaks_off_is_stored_nowhere(site: Site, world: World) -> None:
    whole = _form(b"x" * 3_000_000, dataset_id="chats")
    status, _, text = _upload(site, whole[:-200_000])
    assert status == 400
    assert "not a whole form" in text


def test_what_is_wrong_with_an_upload_is_named(site: Site) -> None:
    for body, field in (
        (_form(b"{}", dataset_id="NOT AN ID"), "dataset_id"),
        (_form(b"", dataset_id="chats"), "file"),
        (_form(b"{}", dataset_id="chats", personal_data="eat"), "personal_data"),
        (b"nothing like a form", "file"),
    ):
        status, _, text = _upload(site, body)
        assert status == 400
        assert f'<dt dir="auto">{field}</dt>' in text


def test_an_answer_comes_piece_by_piece(site: Site, world: World) -> None:
    world.go_on.clear()
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    body = "left=support&right=&text=Hello&side=left"
    headers = {**OWN, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", f"{TENANT}/chat/answer", body, headers)
    response = connection.getresponse()
    assert json.loads(_until(response, b"\n")) == {"text": "Good "}
    world.go_on.set()
    rest = [json.loads(line) for line in response.read().splitlines()]
    assert rest[0] == {"text": "morning."}
    assert rest[-1]["tokens"] == 2
    connection.close()


def test_who_stops_an_answer_ends_its_generation(site: Site, world: World) -> None:
    world.go_on.clear()
    body = "left=support&text=Hello&side=left"
    with socket.create_connection(("127.0.0.1", site.port)) as browser:
        browser.sendall(
            f"POST {TENANT}/chat/answer HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin"
            f"\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        _hear(browser, b"Good")
    assert world.cancelled.wait(20)


def test_a_call_is_not_opened_for_who_has_left_before(services: str) -> None:
    backend = Backend(Config(services, services), "", None)
    backend.close()
    with pytest.raises(Aborted):
        backend.serving.server_info()
    with pytest.raises(Aborted):
        next(backend.watch("tenants/acme/jobs/one"))


def test_an_answer_that_cannot_be_had_says_why(start: Start) -> None:
    site = start(Config(trainer="127.0.0.1:1", serving="127.0.0.1:1"))
    fields = {"left": "support", "text": "Hello", "side": "left"}
    answer = site.post(f"{TENANT}/chat/answer", fields)
    assert json.loads(answer.text)["failed"].startswith("UNAVAILABLE")


def _begun(site: Site, kind: str, body: bytes) -> socket.socket:
    """Send the first part of a form, and no more."""
    browser = socket.create_connection(("127.0.0.1", site.port), timeout=30)
    path = "datasets" if kind.startswith("multipart") else "chat"
    head = (
        f"POST {TENANT}/{path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n"
        f"Content-Type: {kind}\r\nContent-Length: 100000000\r\n\r\n"
    )
    browser.sendall(head.encode() + body)
    return browser


def _begun_upload(site: Site) -> socket.socket:
    body = _form(b"x" * 2**21, dataset_id="chats").removesuffix(f"\r\n--{BOUNDARY}--\r\n".encode())
    return _begun(site, f"multipart/form-data; boundary={BOUNDARY}", body)


def test_so_many_uploads_go_on_and_no_more_and_keep_no_page_waiting(
    services: str, start: Start, world: World
) -> None:
    site = start(Config(services, services), uploads=Uploads(most=1))
    with _begun_upload(site) as slow:
        assert world.receiving.wait(30)
        status, _, text = _upload(site, _form(b"{}\n", dataset_id="other"))
        assert status == 429
        assert "TOO_MANY_UPLOADS" in text
        assert site.get(f"{TENANT}/jobs").status == 200
        slow.shutdown(socket.SHUT_RDWR)
    assert world.broken_off.wait(30), "the call to the trainer goes on"
    assert _upload(site, _form(b"{}\n", dataset_id="other"))[0] == 303


@pytest.mark.parametrize("kind", [f"multipart/form-data; boundary={BOUNDARY}", "text/plain"])
def test_a_browser_that_stops_to_send_is_waited_for_no_more(
    site: Site, world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("tailorbird.console.visit._STALL_SECONDS", 0.3)
    begun = _begun_upload(site) if kind.startswith("multipart") else _begun(site, kind, b"text=a")
    with begun as browser:
        answer = browser.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 408")
    assert kind == "text/plain" or world.broken_off.wait(30)


@pytest.mark.parametrize("path", ["chat", "chat/answer", "jobs/one/cancel"])
def test_who_leaves_while_a_form_is_sent_is_no_defect(
    site: Site, world: World, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    begun = threading.Event()

    with pytest.MonkeyPatch.context() as patch:
        asked = visit.body_of

        async def body_of(request: Any) -> Any:
            begun.set()
            async for part in asked(request):
                yield part

        patch.setattr(visit, "body_of", body_of)
        head = (
            f"POST {TENANT}/{path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n"
            "Content-Length: 100\r\n\r\ntext=a"
        )
        with socket.create_connection(("127.0.0.1", site.port)) as browser:
            browser.sendall(head.encode())
            assert begun.wait(30)
    assert site.get(f"{TENANT}/jobs").status == 200
    assert "Traceback" not in caplog.text
    assert all(type(one).__name__ == "ListJobsRequest" for one in world.requests)


def _asked(site: Site, method: str, path: str, body: str = "") -> socket.socket:
    browser = socket.create_connection(("127.0.0.1", site.port), timeout=30)
    browser.sendall(
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    return browser


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "adapters", ""), ("POST", "chat", "left=support&text=Hello&history=")],
)
def test_who_leaves_a_page_that_is_waited_for_ends_its_calls(
    site: Site, world: World, method: str, path: str, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.hold("Generate" if body else "ListAdapters")
    with _asked(site, method, f"{TENANT}/{path}", body):
        assert world.held.wait(30)
    assert world.broken_off.wait(30), "the call goes on"
    world.let_go.set()
    assert site.get(f"{TENANT}/jobs").status == 200
    assert "Traceback" not in caplog.text


def test_what_a_form_has_changed_goes_on_when_its_browser_leaves(site: Site, world: World) -> None:
    world.hold("Promote")
    with _asked(site, "POST", f"/{VERSIONS[0]}/promote"):
        assert world.held.wait(30)
    assert site.get(f"{TENANT}/jobs").status == 200
    world.let_go.set()
    assert world.done.wait(30)
    assert not world.broken_off.is_set()


async def test_answers_that_last_keep_no_page_waiting(services: str, world: World) -> None:
    world.hold("Generate")
    # Of this event loop: what else a test runs has its own.
    to_thread.current_default_thread_limiter().total_tokens = 1
    app = httpx.ASGITransport(console(Config(services, services)))
    async with httpx.AsyncClient(transport=app, base_url="http://localhost", headers=OWN) as one:
        asked = asyncio.create_task(one.post(f"{TENANT}/chat", data={"left": "base", "text": "Hi"}))
        assert await asyncio.to_thread(world.held.wait, 30)
        assert (await one.get(f"{TENANT}/jobs")).status_code == 200
        world.let_go.set()
        assert (await asked).status_code == 200

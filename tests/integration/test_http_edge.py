"""The HTTP edge on a real socket: callers, errors, bounds, hang-ups, and the order of its stop."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tailorbird.errors import (
    Aborted,
    DataCorrupt,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from tailorbird.http.server import HttpServer
from tailorbird.rpc.auth import Caller, TokenVerifier
from tests.integration.http_server import MAX_BYTES, Running, limited, running

TOKEN = "let-me-in"
JSON = {"content-type": "application/json"}


@pytest.fixture
async def http() -> AsyncIterator[Running]:
    async with running() as one:
        yield one


@pytest.fixture
def verifier() -> TokenVerifier:
    digest = sha256(TOKEN.encode()).hexdigest()
    return TokenVerifier({digest: Caller("billing", frozenset({"acme"}))})


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "reason"}
    return error


class TestCallers:
    async def test_a_token_names_the_caller(self, verifier: TokenVerifier) -> None:
        async with running(verifier) as http, http.client() as client:
            told = await client.get("/who", headers={"authorization": f"Bearer {TOKEN}"})
            assert told.json() == {"subject": "billing"}

    @pytest.mark.parametrize(
        "headers",
        [{}, *({"authorization": each} for each in ("Bearer wrong", "Basic x", b"Bearer \xff"))],
    )
    async def test_who_has_no_known_token_is_refused_before_the_body_is_read(
        self, verifier: TokenVerifier, headers: dict[str, Any]
    ) -> None:
        async with running(verifier) as http, http.client() as client:
            told = await client.post("/echo", headers=headers, content=b"no json at all")
            assert told.status_code == 401
            assert error_of(told)["code"] == "invalid_api_key"
            assert error_of(told)["type"] == "authentication_error"
            assert told.headers["www-authenticate"] == "Bearer"
            assert http.handled("none", 401) == 1

    async def test_without_tokens_anybody_on_this_machine_is_served(self, http: Running) -> None:
        async with http.client() as client:
            told = await client.get("/who", headers={"authorization": "Bearer whatever"})
            assert told.json() == {"subject": "local"}
            near = {"origin": "http://localhost:3000", "host": "localhost:8082"}
            assert (await client.get("/who", headers=near)).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"host": "rebound.example:8082"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"host": "[::1"},
        ],
    )
    async def test_without_tokens_no_page_from_elsewhere_is_served(
        self, http: Running, headers: dict[str, str]
    ) -> None:
        async with http.client() as client:
            told = await client.get("/who", headers=headers)
            assert told.status_code == 401
            assert error_of(told)["reason"] == "NOT_LOCAL"


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "status", "kind"),
        [
            (InvalidArgument("n", "17 is not 1 to 16"), 400, "invalid_request_error"),
            (FailedPrecondition("not now", reason="NO_ROUTE"), 400, "invalid_request_error"),
            (NotFound("tenants/x"), 404, "invalid_request_error"),
            (Aborted("died", reason="ENGINE_DIED"), 409, "invalid_request_error"),
            (limited(), 429, "rate_limit_error"),
            (Unavailable("down", retry_after=0.25), 503, "server_error"),
            (DataCorrupt("rotten"), 500, "server_error"),
        ],
    )
    async def test_each_kind_has_its_status(
        self, http: Running, error: Exception, status: int, kind: str
    ) -> None:
        http.routes.raised = error
        async with http.client() as client:
            told = await client.get("/raise")
        assert (told.status_code, error_of(told)["type"]) == (status, kind)
        assert told.headers["x-should-retry"] == ("true" if status in (429, 503) else "false")
        assert http.handled("/raise", status) == 1

    async def test_a_field_that_is_wrong_is_named(self, http: Running) -> None:
        http.routes.raised = InvalidArgument("n", "17 is not 1 to 16", reason="OUT_OF_RANGE")
        async with http.client() as client:
            error = error_of(await client.get("/raise"))
        assert error["message"] == "n: 17 is not 1 to 16"
        assert (error["param"], error["reason"], error["code"]) == (
            "n",
            "OUT_OF_RANGE",
            "out_of_range",
        )

    async def test_when_to_try_again_is_told(self, http: Running) -> None:
        http.routes.raised = limited()
        async with http.client() as client:
            told = await client.get("/raise")
        assert (told.headers["retry-after"], told.headers["retry-after-ms"]) == ("3", "2500")

    async def test_an_unknown_error_tells_nothing_but_its_id(self, http: Running) -> None:
        http.routes.raised = RuntimeError("the database's password is swordfish")
        with capture_logs() as logs:
            async with http.client() as client:
                told = await client.get("/raise")
        assert told.status_code == 500
        (line,) = [line for line in logs if line["event"] == "unexpected error"]
        assert error_of(told)["message"] == f"internal error {line['correlation_id']}"
        assert "swordfish" not in told.text

    async def test_paths_and_methods_that_are_not_there(self, http: Running) -> None:
        async with http.client() as client:
            lost, wrong = await client.get("/nowhere"), await client.delete("/echo")
        assert (lost.status_code, error_of(lost)["reason"]) == (404, "NO_SUCH_PATH")
        assert (wrong.status_code, error_of(wrong)["reason"]) == (405, "METHOD_NOT_ALLOWED")
        assert "POST" in error_of(wrong)["message"]
        # No caller's text becomes a label.
        assert http.handled("none", 404) == 1

    async def test_a_request_has_an_id(self, http: Running) -> None:
        async with http.client() as client:
            own = await client.get("/who", headers={"x-request-id": "req-7"})
            other = await client.get("/who", headers={"x-request-id": "a b\tc"})
        assert own.headers["x-request-id"] == "req-7"
        assert len(other.headers["x-request-id"]) == 32
        assert "date" in own.headers


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b"\xff{}", "not JSON"),
            (b"[1]", "a list"),
            (b'{"x": NaN}', "NaN"),
            (b'{"x": "\\ud800"}', "surrogate"),
            (b'{"x": "\xed\xa0\x80"}', "not JSON"),
            ('{"x": "\\ud800"}'.encode("utf-16-le"), "not JSON"),
            (b'{"x": ' + b"9" * 5000 + b"}", "not JSON"),
            (b"[" * 100_000, "nests|JSON"),
        ],
    )
    async def test_what_is_no_json_object_is_refused(
        self, http: Running, body: bytes, problem: str
    ) -> None:
        async with http.client() as client:
            told = await client.post("/echo", content=body, headers=JSON)
        assert (told.status_code, error_of(told)["param"]) == (400, "body")
        assert any(each in error_of(told)["message"] for each in problem.split("|"))

    async def test_a_pair_of_surrogates_is_a_character(self, http: Running) -> None:
        async with http.client() as client:
            told = await client.post("/echo", content=b'{"x": "\\ud83d\\ude00"}', headers=JSON)
        assert told.json() == {"x": "\U0001f600"}

    async def test_what_a_page_may_send_unasked_is_refused(self, http: Running) -> None:
        async with http.client() as client:
            told = await client.post("/echo", content=b"{}", headers={"content-type": "text/plain"})
        assert (told.status_code, error_of(told)["reason"]) == (415, "NOT_JSON_TYPE")

    async def test_a_body_at_the_limit_is_taken_and_one_above_is_not(self, http: Running) -> None:
        async with http.client() as client:
            taken = await client.post("/echo", content=b"{}".ljust(MAX_BYTES), headers=JSON)
            refused = await client.post("/echo", content=b"{}".ljust(MAX_BYTES + 1), headers=JSON)
        assert (taken.status_code, refused.status_code) == (200, 413)
        assert str(MAX_BYTES) in error_of(refused)["message"]

    async def test_100_mb_are_refused_and_never_held(self, http: Running) -> None:
        async def megabytes() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield bytes(2**20)

        async with http.client() as client:
            await client.get("/who")
            tracemalloc.start()
            try:
                told = await client.post("/echo", content=megabytes(), headers=JSON)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert told.status_code == 413
        assert error_of(told)["reason"] == "BODY_TOO_LARGE"
        assert told.headers["connection"] == "close"
        assert peak < 16 * 2**20

    async def test_a_length_that_is_too_large_is_refused_unread(self, http: Running) -> None:
        async with http.raw() as (reader, writer):
            writer.write(
                b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"expect: 100-continue\r\ncontent-length: 104857600\r\n\r\n"
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
            rest = await reader.read()
            assert b"BODY_TOO_LARGE" in rest

    async def test_a_head_without_end_ends_its_connection(self, http: Running) -> None:
        sent = 0
        with pytest.raises(ConnectionError):
            async with http.raw() as (_, writer):
                writer.write(b"GET /who HTTP/1.1\r\n")
                for _ in range(100):
                    writer.write(b"x: " + b"y" * 2**20 + b"\r\n")
                    await writer.drain()
                    sent += 2**20
        assert sent < 20 * 2**20

    async def test_what_is_no_http_at_all_is_refused(self, http: Running) -> None:
        async with http.raw() as (reader, writer):
            writer.write(b"\x16\x03\x01 hello\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")


class TestHangups:
    async def test_a_caller_who_leaves_ends_the_route(self, http: Running) -> None:
        async with http.raw() as (_, writer):
            writer.write(
                b"POST /watched HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: 2\r\n\r\n{}"
            )
            await http.routes.entered.wait()
        await asyncio.wait_for(http.routes.left.wait(), 20)
        await http.server.stop(20)
        assert http.handled("/watched", 499) == 1

    async def test_an_answer_ends_the_watch_for_a_hangup(self, http: Running) -> None:
        http.routes.released.set()
        async with http.client() as client:
            for _ in range(2):
                assert (await client.post("/watched", json={})).status_code == 200
        assert http.handled("/watched", 200) == 2

    async def test_one_who_leaves_in_the_midst_of_the_body_is_no_error(self, http: Running) -> None:
        with capture_logs() as logs:
            async with http.raw() as (_, writer):
                writer.write(
                    b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                    b"content-length: 20\r\n\r\n{"
                )
                await writer.drain()
            async with http.client() as client:
                await client.get("/who")
            await http.server.stop(20)
        assert http.handled("/echo", 499) == 1
        assert not logs


class TestStop:
    async def test_calls_in_flight_end_and_new_ones_are_refused(self, http: Running) -> None:
        async with http.client() as client:
            await client.get("/who")
            waiting = asyncio.create_task(client.get("/wait/x"))
            await http.routes.entered.wait()
            stopping = asyncio.create_task(http.server.stop(600))
            await asyncio.sleep(0)
            with pytest.raises(httpx.ConnectError):
                await client.get("/who")
            assert not stopping.done()
            http.routes.released.set()
            assert (await waiting).json() == {"waited": True}
            await stopping

    async def test_an_idle_connection_does_not_hold_it_up(self, http: Running) -> None:
        async with http.client() as client:
            await client.get("/who")
            async with http.raw():
                await http.server.stop(600)

    async def test_what_does_not_end_in_time_is_told_so(self, http: Running) -> None:
        async with http.client() as client:
            waiting = asyncio.create_task(client.get("/wait/x"))
            await http.routes.entered.wait()
            await http.server.stop(0)
            told = await waiting
        assert (told.status_code, error_of(told)["reason"]) == (503, "SHUTTING_DOWN")
        assert http.handled("/wait/{what}", 503) == 1


async def test_a_taken_port_is_a_clear_error(http: Running) -> None:
    other = HttpServer("127.0.0.1", http.server.port, None, CollectorRegistry())
    with pytest.raises(FailedPrecondition, match="cannot listen") as caught:
        await other.start()
    assert (caught.value.reason, caught.value.metadata["setting"]) == ("PORT_TAKEN", "http_port")


async def test_the_kernel_takes_little_of_what_is_not_read(http: Running) -> None:
    async with http.raw() as _:
        listening = http.server._listening
        assert listening is not None
        bound = listening.sockets[0]
        assert bound.getsockopt(socket.IPPROTO_TCP, 25) == 16 * 1024

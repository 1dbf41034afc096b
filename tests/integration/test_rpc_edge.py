"""The gRPC edge over a real socket: callers, errors, malformed bytes, health, metrics, stopping."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import string
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from tailorbird import errors
from tailorbird.names import TenantName
from tailorbird.rpc import interceptors
from tailorbird.rpc.auth import TokenVerifier, current_caller
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.status import reason_of, reason_of_status, stored_status, to_status
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as pb_grpc
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning_pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as tuning_grpc

SERVICE = "tailorbird.serving.v1.InferenceService"
METHOD = f"/{SERVICE}/Generate"


def ascii_of(text: str) -> str:
    return ascii(text[:2])


def from_trailers(trailers: Any) -> status_pb2.Status:
    return status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])


class Servicer(pb_grpc.InferenceServiceServicer):
    """Raises what a test wants, or answers with who called."""

    error: Exception | None = None
    entered: asyncio.Event
    leave: asyncio.Event

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        if self.error is not None:
            raise self.error
        if request.parent:
            current_caller().check(TenantName.parse(request.parent))
        return pb.GenerateResponse(text=current_caller().subject)

    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        yield pb.StreamGenerateResponse(text="one")
        self.entered.set()
        await self.leave.wait()
        if self.error is not None:
            raise self.error
        yield pb.StreamGenerateResponse(text="two")

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Any
    ) -> pb.GetServerInfoResponse:
        return pb.GetServerInfoResponse()

    async def RecordFeedback(
        self, request: pb.RecordFeedbackRequest, context: Any
    ) -> pb.RecordFeedbackResponse:
        raise NotImplementedError


class Uploads(tuning_grpc.TuningServiceServicer):
    async def UploadDataset(
        self, request_iterator: AsyncIterator[tuning_pb.UploadDatasetRequest], context: Any
    ) -> tuning_pb.UploadDatasetResponse:
        async for _ in request_iterator:
            pass
        return tuning_pb.UploadDatasetResponse()


@pytest.fixture
def servicer() -> Servicer:
    servicer = Servicer()
    servicer.entered, servicer.leave = asyncio.Event(), asyncio.Event()
    return servicer


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def verifier() -> TokenVerifier | None:
    return None


@pytest.fixture
async def server(
    servicer: Servicer, registry: CollectorRegistry, verifier: TokenVerifier | None
) -> AsyncIterator[RpcServer]:
    server = RpcServer("127.0.0.1", 0, verifier, registry, [SERVICE])
    pb_grpc.add_InferenceServiceServicer_to_server(servicer, server.grpc)
    tuning_grpc.add_TuningServiceServicer_to_server(Uploads(), server.grpc)  # type: ignore[abstract]
    await server.start()
    yield server
    await server.stop(0)


@pytest.fixture
async def channel(server: RpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


def details(error: grpc.aio.AioRpcError) -> list[Any]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    unpacked = []
    for detail in status.details:
        kind = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])
        message = kind()
        assert detail.Unpack(message)
        unpacked.append(message)
    return unpacked


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("a.b", "3 is more than 2"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.InvalidRecord(4, "not JSON"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.NotFound("tenants/a"), grpc.StatusCode.NOT_FOUND),
        (errors.AlreadyExists("taken"), grpc.StatusCode.ALREADY_EXISTS),
        (errors.FailedPrecondition("no"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.AdapterRefused("no", reason="NOT_FINITE"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.LeaseLost("gone"), grpc.StatusCode.ABORTED),
        (errors.DeadlineExceeded("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.ResourceExhausted("full", retry_after=2), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.StoreUnavailable("down"), grpc.StatusCode.UNAVAILABLE),
        (errors.DataCorrupt("broken"), grpc.StatusCode.DATA_LOSS),
    ],
)
async def test_every_error_has_its_code_and_one_reason(
    channel: grpc.aio.Channel, servicer: Servicer, error: errors.TailorbirdError, code: object
) -> None:
    servicer.error = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pb_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest())
    assert caught.value.code() is code
    assert caught.value.details() == error.message
    assert reason_of(caught.value) == error.reason
    found = details(caught.value)
    infos = [d for d in found if isinstance(d, error_details_pb2.ErrorInfo)]
    assert [info.domain for info in infos] == ["tailorbird"]
    if isinstance(error, errors.InvalidArgument):
        (bad,) = (d for d in found if isinstance(d, error_details_pb2.BadRequest))
        assert bad.field_violations[0].field == error.field
    if isinstance(error, errors.ResourceExhausted):
        (retry,) = (d for d in found if isinstance(d, error_details_pb2.RetryInfo))
        assert retry.retry_delay.seconds == 2


LONG = [
    "x" * 100_000,
    "ü" * 50_000,
    "\u4e16\U0001f600" * 30_000,
    "%\n\0" * 30_000,
    "\ud800" * 9_000,
]


@pytest.mark.parametrize("text", LONG, ids=ascii_of)
@pytest.mark.parametrize("kind", [errors.InvalidArgument, errors.ResourceExhausted])
async def test_an_error_of_any_length_reaches_the_caller(
    channel: grpc.aio.Channel, servicer: Servicer, kind: type[errors.TailorbirdError], text: str
) -> None:
    """gRPC gives trailers about 8 kB, then breaks the call: UNKNOWN, RESOURCE_EXHAUSTED or none."""
    more: dict[str, Any] = {f"key{i}{text[:200]}": text for i in range(40)}
    more |= {"quota": text, "subject": text}
    if kind is errors.InvalidArgument:
        servicer.error = errors.InvalidArgument(text, text, reason="TOO_LONG", **more)
    else:
        servicer.error = kind(text, reason="TOO_LONG", **more)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pb_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest())
    error = caught.value
    assert error.code().value[0] == to_status(servicer.error).code
    assert reason_of(error) == "TOO_LONG"
    assert (error.details() or "").endswith("…")
    kinds = [type(detail).__name__ for detail in details(error)]
    assert "QuotaFailure" in kinds
    assert {"BadRequest", "RetryInfo"} & set(kinds)
    size = sum(len(key) + len(value) for key, value in error.trailing_metadata() or ())
    message = quote(error.details() or "", safe=string.punctuation.replace("%", "") + " ")
    assert size * 4 / 3 + len(message) < 6500


@pytest.mark.parametrize("text", [*LONG, "short"], ids=ascii_of)
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("count", [1, 2, 100])
async def test_every_bad_line_reaches_the_caller(
    channel: grpc.aio.Channel, servicer: Servicer, count: int, same: bool, text: str
) -> None:
    texts = [text if same else f"{number}{text}" for number in range(count)]
    bad = [errors.InvalidRecord(10**9 + i, text) for i, text in enumerate(texts)]
    servicer.error = errors.InvalidRecords(bad, 10**9, 2 * 10**9)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pb_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest())
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "INVALID_RECORD"
    (found,) = (d for d in details(error) if isinstance(d, error_details_pb2.BadRequest))
    told = found.field_violations
    assert [one.field for one in told] == [f"line {10**9 + i}" for i in range(count)]
    assert all(one.description for one in told)
    if text == "short" or (same and count == 1):
        assert all(one.description.endswith(("short", "1000000000", "…")) for one in told)
    assert [one.reason for one in told] == (["INVALID_RECORD"] if count == 1 else [""] * count)
    size = sum(len(key) + len(value) for key, value in error.trailing_metadata() or ())
    message = quote(error.details() or "", safe=string.punctuation.replace("%", "") + " ")
    assert size * 4 / 3 + len(message) < 8000


def test_many_violations_share_the_room_and_short_ones_are_whole() -> None:
    bad = [errors.InvalidRecord(line, f"{line} short") for line in range(1, 60)]
    bad += [errors.InvalidRecord(line, f"{line} {'x' * 400}") for line in range(60, 100)]
    status = to_status(errors.InvalidRecords(bad, 99, 99))
    found = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(found)
    texts = [one.description for one in found.field_violations]
    assert texts[:59] == [f"{line} short" for line in range(1, 60)]
    assert {len(text.encode()) for text in texts[59:]} == {len(texts[59].encode())}
    assert all(text.endswith("x…") for text in texts[59:])
    # A tag and a length take two bytes less than there is room for.
    assert 4400 - 3 * 99 < found.ByteSize() <= 4400


def test_what_fits_is_not_cut() -> None:
    text = "süß " * 50
    status = to_status(errors.InvalidArgument("a.b", text, limit=7))
    assert status.message == f"a.b: {text}"
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert dict(info.metadata) == {"field": "a.b", "limit": "7"}
    assert bad.field_violations[0].description == text


@pytest.mark.parametrize("text", LONG, ids=ascii_of)
def test_a_stored_error_is_bounded_too(text: str) -> None:
    status = stored_status(text, text, {text: text})
    assert status.ByteSize() < 3000
    assert status.message.endswith("…")


async def test_what_nobody_expected_tells_nothing(
    channel: grpc.aio.Channel, servicer: Servicer
) -> None:
    servicer.error = ValueError("secret of another tenant")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pb_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)
    (info,) = details(caught.value)
    assert info.metadata["correlation_id"] in (caught.value.details() or "")


async def test_an_error_in_a_stream_ends_it(channel: grpc.aio.Channel, servicer: Servicer) -> None:
    servicer.error = errors.StoreUnavailable("down")
    servicer.leave.set()
    stream = pb_grpc.InferenceServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest())
    texts = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for response in stream:
            texts.append(response.text)  # noqa: PERF401 - what came before the error counts
    assert texts == ["one"]
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("method", "streaming"),
    [
        (METHOD, False),
        (f"/{SERVICE}/StreamGenerate", False),
        ("/tailorbird.tuning.v1.TuningService/UploadDataset", True),
    ],
)
async def test_bytes_that_are_no_message_are_the_callers_fault(
    channel: grpc.aio.Channel, method: str, streaming: bool
) -> None:
    raw: Any = channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if streaming:
            await raw.stream_unary(method)(iter([b"\xff\xff"]))
        elif method == METHOD:
            await raw.unary_unary(method)(b"\xff\xff")
        else:
            async for _ in raw.unary_stream(method)(b"\xff\xff"):
                pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value) == "MALFORMED_REQUEST"


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    raw: Any = channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw.unary_unary("/tailorbird.x/Y")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class TestTokens:
    """A server with a tokens file."""

    @pytest.fixture
    def verifier(self, tmp_path: Path) -> TokenVerifier:
        path = tmp_path / "tokens.json"
        digest = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("t1", "t2")}
        tokens = [
            {"sha256": digest["t1"], "subject": "billing", "tenants": ["acme"]},
            {"sha256": digest["t2"], "subject": "ops", "tenants": "*"},
        ]
        path.write_text(json.dumps({"tokens": tokens}))
        return TokenVerifier.from_file(path)

    async def call(self, channel: grpc.aio.Channel, parent: str, *metadata: tuple[str, str]) -> str:
        response = await pb_grpc.InferenceServiceStub(channel).Generate(
            pb.GenerateRequest(parent=parent), metadata=metadata
        )
        return str(response.text)

    async def test_a_token_says_who_calls(self, channel: grpc.aio.Channel) -> None:
        assert await self.call(channel, "", ("authorization", "Bearer t1")) == "billing"
        assert await self.call(channel, "tenants/acme", ("authorization", "bearer t1")) == "billing"
        assert await self.call(channel, "tenants/any", ("authorization", "Bearer t2")) == "ops"

    async def test_another_tenant_does_not_exist(self, channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(channel, "tenants/globex", ("authorization", "Bearer t1"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    @pytest.mark.parametrize(
        "metadata",
        [
            (),
            (("authorization", "Bearer wrong"),),
            (("authorization", "Bearer "),),
            (("authorization", "Basic t1"),),
            (("authorization", "t1"),),
        ],
    )
    async def test_without_a_known_token_nothing_answers(
        self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(channel, "tenants/acme", *metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize("method", ["Generate", "StreamGenerate"])
    async def test_who_sends_no_body_hears_at_once(
        self, server: RpcServer, registry: CollectorRegistry, method: str
    ) -> None:
        """As a stream of requests of which none comes, which a unary call's headers look like."""
        never = asyncio.Event()

        async def requests() -> AsyncIterator[bytes]:
            await never.wait()
            yield b""

        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            raw: Any = channel
            call = raw.stream_stream(f"/{SERVICE}/{method}")(requests())
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            assert reason_of_status(from_trailers(await call.trailing_metadata()))
        labels = {"method": f"/{SERVICE}/{method}", "code": "UNAUTHENTICATED"}
        assert registry.get_sample_value("tailorbird_rpc_handled_total", labels) == 1

    async def test_the_body_of_who_is_refused_is_not_parsed(
        self, server: RpcServer, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parsed: list[int] = []

        def decode(self: Any, data: bytes) -> Any:
            parsed.append(len(data))
            return pb.GenerateRequest.FromString(data)

        monkeypatch.setattr(interceptors._Decoder, "__call__", decode)
        large = pb.GenerateRequest(prompt="x" * (4 * 2**20 - 1000))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.InferenceServiceStub(channel).Generate(large)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert parsed == []
        metadata = (("authorization", "Bearer t1"),)
        await pb_grpc.InferenceServiceStub(channel).Generate(large, metadata=metadata)
        assert parsed == [large.ByteSize()]

    async def test_uploads_are_refused_before_a_piece_is_read(
        self, server: RpcServer, channel: grpc.aio.Channel
    ) -> None:
        piece = tuning_pb.UploadDatasetRequest(chunk=bytes(2**20))

        def upload() -> grpc.StatusCode:
            # Of gRPC's two clients the blocking one keeps the status of a call that is refused
            # while it writes.
            with grpc.insecure_channel(f"127.0.0.1:{server.port}") as blocking:
                call: Any = tuning_grpc.TuningServiceStub(blocking).UploadDataset
                with pytest.raises(grpc.RpcError) as caught:
                    call(itertools.repeat(piece))
            code: grpc.StatusCode = caught.value.code()
            return code

        assert await asyncio.to_thread(upload) is grpc.StatusCode.UNAUTHENTICATED

    async def test_health_needs_no_token(self, channel: grpc.aio.Channel) -> None:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status != health_pb2.HealthCheckResponse.UNKNOWN


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"tokens": [{"sha256": "x", "subject": "a", "tenants": "*"}]}',
        '{"tokens": [{"sha256": "%s", "subject": "a", "tenants": ["../x"]}]}' % ("0" * 64),
        '{"tokens": [{"token": "plain", "subject": "a", "tenants": "*"}]}',
    ],
)
def test_a_wrong_tokens_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(content)
    with pytest.raises(errors.InvalidArgument, match="tokens_file"):
        TokenVerifier.from_file(path)


async def test_health_follows_readiness(server: RpcServer, channel: grpc.aio.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    status = health_pb2.HealthCheckResponse

    async def both() -> set[int]:
        return {
            (await health.Check(health_pb2.HealthCheckRequest(service=name))).status
            for name in ("", SERVICE)
        }

    assert await both() == {status.NOT_SERVING}
    await server.set_ready(True)
    assert await both() == {status.SERVING}


async def test_a_stop_lets_a_call_in_flight_end(
    server: RpcServer, channel: grpc.aio.Channel, servicer: Servicer
) -> None:
    stream = pb_grpc.InferenceServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest())
    reading = asyncio.create_task(_texts(stream))
    await servicer.entered.wait()
    stopping = asyncio.create_task(server.stop(grace=30))
    servicer.leave.set()
    assert await reading == ["one", "two"]
    await stopping
    assert not server.ready


async def _texts(stream: Any) -> list[str]:
    return [response.text async for response in stream]


async def test_a_taken_port_is_a_clear_error(server: RpcServer) -> None:
    other = RpcServer("127.0.0.1", server.port, None, CollectorRegistry(), [])
    with pytest.raises(errors.FailedPrecondition, match="cannot listen on"):
        await other.start()
    await other.stop(0)


async def test_calls_are_counted_by_method_and_code(
    channel: grpc.aio.Channel, servicer: Servicer, registry: CollectorRegistry
) -> None:
    stub = pb_grpc.InferenceServiceStub(channel)
    await stub.Generate(pb.GenerateRequest())
    servicer.error = errors.NotFound("x")
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Generate(pb.GenerateRequest())

    def count(code: str) -> float | None:
        return registry.get_sample_value(
            "tailorbird_rpc_handled_total", {"method": METHOD, "code": code}
        )

    assert (count("OK"), count("NOT_FOUND")) == (1, 1)


def test_a_status_never_shows_an_unknown_errors_text() -> None:
    status = to_status(KeyError("secret"))
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert b"secret" not in status.SerializeToString()


def refused(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAVAILABLE


class TestStop:
    """NOT_SERVING, then a pause in which calls are taken, then refusal, then the grace."""

    @pytest.fixture
    def pause(self, monkeypatch: pytest.MonkeyPatch) -> Pause:
        pause = Pause()
        monkeypatch.setattr("tailorbird.rpc.server.asyncio.sleep", pause)
        return pause

    async def test_calls_are_taken_while_it_says_not_serving(
        self, server: RpcServer, channel: grpc.aio.Channel, pause: Pause
    ) -> None:
        await server.set_ready(True)
        stopping = asyncio.create_task(server.stop(30, delay=5))
        await pause.begun.wait()
        assert pause.seconds == 5
        assert not server.ready
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        stub = pb_grpc.InferenceServiceStub(channel)
        assert (await stub.Generate(pb.GenerateRequest())).text == "local"
        pause.over.set()
        await stopping
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(pb.GenerateRequest())
        assert refused(caught.value)

    async def test_nobody_waits_for_a_server_that_nobody_was_sent_to(
        self, server: RpcServer, pause: Pause
    ) -> None:
        await server.stop(0, delay=60)
        assert not pause.begun.is_set()

    async def test_a_health_watch_does_not_hold_the_stop(
        self, server: RpcServer, channel: grpc.aio.Channel, pause: Pause
    ) -> None:
        await server.set_ready(True)
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        seen = [(await watch.read()).status]
        pause.over.set()
        async with asyncio.timeout(20):
            await server.stop(600, delay=5)
            seen.append((await watch.read()).status)
        status = health_pb2.HealthCheckResponse
        assert seen == [status.SERVING, status.NOT_SERVING]
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE

    async def test_a_watch_begun_too_late_is_refused(self, server: RpcServer) -> None:
        server.endless.end()
        with pytest.raises(errors.Unavailable, match="shutting down"):
            async with server.endless.call():
                pass

    async def test_a_timeout_of_the_call_itself_stays_one(self, server: RpcServer) -> None:
        with pytest.raises(TimeoutError):
            async with server.endless.call():
                raise TimeoutError


class Pause:
    """Stands for the sleep of a stop: it lasts until the test says so."""

    def __init__(self) -> None:
        self.begun, self.over = asyncio.Event(), asyncio.Event()
        self.seconds = 0.0

    async def __call__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun.set()
        await self.over.wait()

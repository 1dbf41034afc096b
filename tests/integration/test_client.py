"""The clients over a real socket: what they send, what they raise, when they try again."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tailorbird import errors
from tailorbird.absence import Absence
from tailorbird.client import (
    AsyncServingClient,
    AsyncTrainerClient,
    CallError,
    FieldViolation,
    QuotaViolation,
    ServingClient,
    TrainerClient,
    chat_request,
)
from tailorbird.serving.v1 import inference_service_pb2 as serving_pb
from tailorbird.tuning.v1 import job_pb2
from tests.integration.blocking import blocking
from tests.integration.scripted_services import (
    ADAPTER,
    VERSIONS,
    Script,
    a_job_that_succeeds,
    serve,
)

JOB = "tenants/acme/jobs/one"


@pytest.fixture(params=["threads", "asyncio"])
def trainer(port: int, request: pytest.FixtureRequest) -> Iterator[TrainerClient]:
    """Either client: they are twins."""
    address = f"localhost:{port}"
    if request.param == "threads":
        with TrainerClient(address, "secret") as client:
            yield client
    else:
        with blocking(lambda: AsyncTrainerClient(address, "secret")) as twin:
            yield cast("TrainerClient", twin)


@pytest.fixture(params=["threads", "asyncio"])
def serving(port: int, request: pytest.FixtureRequest) -> Iterator[ServingClient]:
    """Either client: they are twins."""
    address = f"localhost:{port}"
    if request.param == "threads":
        with ServingClient(address, "secret") as client:
            yield client
    else:
        with blocking(lambda: AsyncServingClient(address, "secret")) as twin:
            yield cast("ServingClient", twin)


def test_an_upload_is_sent_in_chunks_with_its_size(
    trainer: TrainerClient, script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"x" * (5 * 2**19))
    sent: list[int] = []
    dataset = trainer.upload_dataset("tenants/acme", "chats", path, sent=sent.append)
    assert dataset.name == "tenants/acme/datasets/chats"
    assert script.requests[0].size_bytes == 5 * 2**19
    assert script.chunk_sizes == [2**20, 2**20, 2**19]
    assert sent == [2**20, 2**21, 5 * 2**19]
    assert script.metadata[0]["authorization"] == "Bearer secret"


def test_an_upload_is_never_far_ahead_of_its_reader(
    trainer: TrainerClient, script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(bytes(64 * 2**20))
    leads: list[int] = []
    trainer.upload_dataset(
        "tenants/acme", "large", path, sent=lambda total: leads.append(total - script.received)
    )
    assert script.received == 64 * 2**20
    assert max(leads) <= 16 * 2**20


def test_an_upload_of_a_missing_file_is_an_os_error(trainer: TrainerClient, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        trainer.upload_dataset("tenants/acme", "none", tmp_path / "none.jsonl")


def test_a_failed_call_says_code_reason_and_field(trainer: TrainerClient, script: Script) -> None:
    script.error = errors.InvalidArgument("job.spec.lora.rank", "7 is not one of 8, 16", limit=128)
    with pytest.raises(CallError) as caught:
        trainer.create_job("tenants/acme", job_pb2.JobSpec())
    error = caught.value
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == "INVALID_ARGUMENT"
    assert error.violations == (FieldViolation("job.spec.lora.rank", "7 is not one of 8, 16"),)
    assert error.metadata["limit"] == "128"
    assert error.retry_after is None


def test_a_failed_call_says_when_to_try_again(serving: ServingClient, script: Script) -> None:
    script.error = errors.ResourceExhausted("no slot", reason="NO_SLOT", retry_after=2.5)
    with pytest.raises(CallError) as caught:
        serving.generate(chat_request(ADAPTER, "hello"))
    assert (caught.value.reason, caught.value.retry_after) == ("NO_SLOT", 2.5)
    assert str(caught.value) == ("RESOURCE_EXHAUSTED (NO_SLOT): no slot; try again after 2.5 s")


def test_a_failed_call_says_whose_limit_is_reached(serving: ServingClient, script: Script) -> None:
    script.error = errors.ResourceExhausted(
        "60 requests a minute", reason="RATE_LIMITED", quota="requests", subject="tenants/acme"
    )
    with pytest.raises(CallError) as caught:
        serving.generate(chat_request(ADAPTER, "hello"))
    quota = QuotaViolation("tenants/acme", "requests", "60 requests a minute")
    assert caught.value.quotas == (quota,)
    assert caught.value.hints == "; requests of tenants/acme; try again after 1 s"


def test_a_service_that_is_away_is_unavailable(port: int) -> None:
    with TrainerClient("localhost:1") as nobody, pytest.raises(CallError) as caught:
        nobody.trainer_info()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == "UNAVAILABLE"


def test_listings_go_through_every_page(
    trainer: TrainerClient, serving: ServingClient, script: Script
) -> None:
    names = [job.name.rpartition("/")[2] for job in trainer.list_jobs("tenants/acme")]
    assert names == ["0-a", "0-b", "1-a", "1-b", "2-a", "2-b"]
    assert [version.name for version in serving.list_versions(ADAPTER)] == VERSIONS


def test_a_watch_that_breaks_goes_on_after_the_last_event_seen(
    trainer: TrainerClient, script: Script
) -> None:
    script.events = a_job_that_succeeds()
    script.breaks_after = [3, 6]
    assert [event.sequence for event in trainer.watch_job(JOB)] == list(range(1, 10))
    assert [request.after_sequence for request in script.requests] == [0, 3, 6]


def test_a_watch_outlives_its_server(script: Script) -> None:
    script.events = a_job_that_succeeds()
    script.breaks_after = [4]
    server, port = serve(script)
    with TrainerClient(f"localhost:{port}") as trainer:
        events = trainer.watch_job(JOB)
        seen = [next(events).sequence for _ in range(4)]
        server.stop(None).wait()
        server, _ = serve(script, port)
        seen += [event.sequence for event in events]
    server.stop(None).wait()
    assert seen == list(range(1, 10))


def test_a_watch_tells_when_its_trainer_is_away_and_when_it_is_back(
    trainer: TrainerClient, script: Script
) -> None:
    script.events = a_job_that_succeeds()
    script.quiet_breaks, script.breaks_after = 1, [3]
    heard: list[object] = []
    events = trainer.watch_job(
        JOB,
        patience=60,
        lost=lambda error, left: heard.append((error.message, 0 < left <= 60)),
        back=lambda: heard.append("back"),
    )
    heard.extend(event.sequence for event in events)
    away = ("the trainer stops", True)
    assert heard == [away, "back", 1, 2, 3, away, "back", *range(4, 10)]


def test_a_watch_gives_up_when_its_patience_ends(trainer: TrainerClient, script: Script) -> None:
    script.error = errors.Unavailable("starting")
    with pytest.raises(CallError) as caught:
        list(trainer.watch_job(JOB, patience=0.3))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert len(script.requests) > 1


@pytest.mark.parametrize(
    ("code", "details"),
    [
        pytest.param(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", id="proxy"),
        pytest.param(grpc.StatusCode.CANCELLED, "CANCELLED", id="closing server"),
    ],
)
def test_a_watch_goes_on_when_others_say_that_its_trainer_is_gone(
    trainer: TrainerClient, script: Script, code: grpc.StatusCode, details: str
) -> None:
    script.events = a_job_that_succeeds()
    script.breaks_after, script.broken_as = [3, 6], (code, details)
    assert [event.sequence for event in trainer.watch_job(JOB)] == list(range(1, 10))


def test_a_watch_ends_with_its_job_whatever_breaks_after(
    trainer: TrainerClient, script: Script
) -> None:
    script.events = a_job_that_succeeds()
    script.breaks_after = [9]
    assert [event.sequence for event in trainer.watch_job(JOB)] == list(range(1, 10))
    assert len(script.requests) == 1


class Hours:
    """A clock that goes on by ten minutes whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 600
        return self.now


@pytest.mark.parametrize("quiet", [0, 6])
def test_patience_is_with_each_absence(
    trainer: TrainerClient, script: Script, monkeypatch: pytest.MonkeyPatch, quiet: int
) -> None:
    """A job may be silent for hours between two restarts of its trainer, and before the first."""
    monkeypatch.setattr("tailorbird.absence.time", Hours())
    # gRPC for asyncio forgets what a call began with where its end comes at the same moment.
    heard = threading.Semaphore(0)
    is_over = Absence.is_over

    def hear(absence: Absence) -> None:
        is_over(absence)
        heard.release()

    monkeypatch.setattr(Absence, "is_over", hear)
    script.before_quiet_break = lambda: heard.acquire(timeout=30)
    script.events = a_job_that_succeeds()
    script.quiet_breaks, script.breaks_after = quiet, [2, 4, 6]
    assert [event.sequence for event in trainer.watch_job(JOB)] == list(range(1, 10))


def test_a_watch_does_not_retry_an_error_of_the_trainers_own(
    trainer: TrainerClient, script: Script
) -> None:
    script.error = ValueError("a defect")  # type: ignore[assignment]
    with pytest.raises(CallError, match="INTERNAL"):
        list(trainer.watch_job(JOB))
    assert len(script.requests) == 1


def test_a_watch_does_not_retry_what_cannot_get_better(
    trainer: TrainerClient, script: Script
) -> None:
    script.error = errors.NotFound(JOB)
    with pytest.raises(CallError) as caught:
        list(trainer.watch_job(JOB))
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert len(script.requests) == 1


def test_a_watch_from_a_sequence_on(trainer: TrainerClient, script: Script) -> None:
    script.events = a_job_that_succeeds()
    assert [event.sequence for event in trainer.watch_job(JOB, 7)] == [8, 9]


def test_generations_carry_what_proxies_and_gateways_go_by(
    serving: ServingClient, script: Script
) -> None:
    serving.generate(chat_request(ADAPTER, "hello", system="be kind", max_tokens=5))
    list(serving.stream_generate(chat_request("tenants/acme", "hello")))
    for name in ("x-tailorbird-adapter", "x-llm-d-model-name-rewrite"):
        assert [one[name] for one in script.metadata] == [ADAPTER, "tenants/acme"]
    request = script.requests[0]
    assert [message.role for message in request.chat.messages] == [
        serving_pb.ROLE_SYSTEM,
        serving_pb.ROLE_USER,
    ]
    assert request.sampling.max_tokens == 5
    assert not request.sampling.HasField("temperature")
    assert script.requests[1].request.WhichOneof("model") == "parent"


@pytest.mark.parametrize("model", ["tenants/acme/adapters/süß", "x" * 9000, "a\nb", ""])
def test_a_name_that_no_metadata_can_hold_reaches_the_service(
    serving: ServingClient, script: Script, model: str
) -> None:
    """What is wrong with it the service says: INVALID_NAME."""
    serving.generate(serving_pb.GenerateRequest(adapter=model))
    list(serving.stream_generate(serving_pb.GenerateRequest(adapter=model)))
    assert script.requests[0].adapter == script.requests[1].request.adapter == model
    sent = {key for metadata in script.metadata for key in metadata}
    assert not sent & {"x-tailorbird-adapter", "x-llm-d-model-name-rewrite"}


def test_a_request_says_everything_that_can_be_asked(
    serving: ServingClient, script: Script
) -> None:
    asked = chat_request(
        ADAPTER,
        "hello",
        n=3,
        logprobs=2,
        choices=["yes", "no"],
        routing_key="user-7",
        min_route_generation=4,
        priority=-5,
    )
    assert len(serving.generate(asked).others) == 2
    (sent,) = script.requests
    assert (sent.sampling.n, sent.sampling.logprobs) == (3, 2)
    assert list(sent.sampling.choices.choices) == ["yes", "no"]
    assert (sent.routing_key, sent.min_route_generation, sent.priority) == ("user-7", 4, -5)
    for structure in ({"json_schema": "{}"}, {"regex": "a"}, {"grammar": "root ::= 'a'"}):
        one = chat_request(ADAPTER, "hello", **structure)  # type: ignore[arg-type]
        assert one.sampling.WhichOneof("structure") in structure
    with pytest.raises(errors.InvalidArgument, match="at most one of regex, choices"):
        chat_request(ADAPTER, "hello", regex="a", choices=["a"])


def test_a_generation_is_never_sent_twice(serving: ServingClient, script: Script) -> None:
    script.error = errors.Unavailable("the engine died")
    for send in (serving.generate, lambda request: list(serving.stream_generate(request))):
        with pytest.raises(CallError):
            send(chat_request(ADAPTER, "hello"))
    assert len(script.requests) == 2


def test_closing_a_stream_ends_the_generation(serving: ServingClient, script: Script) -> None:
    script.go_on.clear()
    pieces = serving.stream_generate(chat_request(ADAPTER, "hello"))
    assert next(pieces).text == "Good "
    pieces.close()
    assert script.cancelled.wait(10)
    script.go_on.set()


def test_a_deadline_ends_a_generation(serving: ServingClient, script: Script) -> None:
    script.go_on.clear()
    with pytest.raises(CallError) as caught:
        list(serving.stream_generate(chat_request(ADAPTER, "hello"), timeout=0.2))
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    script.go_on.set()


def test_routes_move(serving: ServingClient) -> None:
    assert serving.promote(VERSIONS[0]).version == VERSIONS[0]
    assert serving.get_adapter(ADAPTER).route.version == VERSIONS[0]
    assert serving.rollback(ADAPTER).version == VERSIONS[1]
    assert serving.rollback(ADAPTER, VERSIONS[0]).reason == "rollback"
    assert serving.get_version(VERSIONS[1]).name == VERSIONS[1]
    assert [adapter.name for adapter in serving.list_adapters("tenants/acme")] == [ADAPTER]


def test_a_route_is_set_by_weights(serving: ServingClient, script: Script) -> None:
    route = serving.set_route(ADAPTER, {VERSIONS[0]: 90, VERSIONS[1]: 10}, expected_generation=3)
    assert [(one.version, one.weight) for one in route.versions] == [
        (VERSIONS[0], 90),
        (VERSIONS[1], 10),
    ]
    assert (script.requests[0].name, script.requests[0].expected_generation) == (ADAPTER, 3)


def test_versions_are_warmed_and_deleted(serving: ServingClient, script: Script) -> None:
    assert not serving.warm_version(VERSIONS[0]).pinned
    assert serving.warm_version(VERSIONS[0], pin=True).pinned
    assert [request.HasField("pin") for request in script.requests] == [False, True]
    assert serving.delete_version(VERSIONS[1]).HasField("delete_time")
    pages = list(serving.list_residency("tenants/acme"))
    assert [held.name for page in pages for held in page.versions] == VERSIONS


def test_an_adapter_is_imported_from_a_folder_or_a_uri(
    serving: ServingClient, script: Script, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        serving.import_adapter(ADAPTER, tmp_path)
    assert script.requests == []
    weights = bytes(range(256)) * 2**13
    (tmp_path / "adapter_config.json").write_bytes(b"{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    assert serving.import_adapter(ADAPTER, tmp_path).name == VERSIONS[0]
    assert script.files == {"adapter_config.json": b"{}", "adapter_model.safetensors": weights}
    serving.import_adapter(ADAPTER, "s3://bucket/adapter")
    assert [getattr(one, "import").uri for one in script.requests] == ["", "s3://bucket/adapter"]


def test_tls_with_an_authority_of_ones_own(script: Script) -> None:
    key, certificate = _certificate()
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    server, port = serve(script, credentials=credentials)
    with ServingClient(f"localhost:{port}", root_certificates=certificate) as client:
        assert client.server_info().base_model == "demo"
    with ServingClient(f"localhost:{port}") as client, pytest.raises(CallError):
        client.server_info()
    server.stop(None).wait()


def test_a_token_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument):
        TrainerClient("localhost:1", "schlüssel")


def test_client_and_cli_need_the_base_install_only() -> None:
    code = """
import sys
class Blocked:
    names = {"pydantic", "pydantic_settings", "structlog", "prometheus_client", "obstore", "uvloop",
        "torch", "vllm", "transformers", "sqlalchemy", "grpc_health", "huggingface_hub", "numpy"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import tailorbird.client
import tailorbird.cli.app
"""
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.public_bytes(pem),
    )

"""Which calls the clients make again, over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tailorbird import client, errors
from tailorbird.client import AsyncServingClient, AsyncTrainerClient, ServingClient, TrainerClient
from tailorbird.tuning.v1 import job_pb2, sweep_pb2
from tests.integration.blocking import blocking
from tests.integration.scripted_services import ADAPTER, VERSIONS, Script

JOB = "tenants/acme/jobs/one"


class Clients:
    def __init__(self, trainer: Any, serving: Any) -> None:
        self.trainer: TrainerClient = trainer
        self.serving: ServingClient = serving


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clients wait between two attempts; nobody waits for it."""
    found: list[float] = []

    async def pause(_: object, seconds: float) -> None:
        found.append(seconds)

    def block(_: object, seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr("tailorbird.connection.Connection.sleep", block)
    monkeypatch.setattr("tailorbird.aio.connection.AsyncConnection.sleep", pause)
    return found


@pytest.fixture(params=["threads", "asyncio"])
def clients(port: int, request: pytest.FixtureRequest) -> Iterator[Clients]:
    address = f"localhost:{port}"
    if request.param == "threads":
        with TrainerClient(address) as trainer, ServingClient(address) as serving:
            yield Clients(trainer, serving)
    else:
        with (
            blocking(lambda: AsyncTrainerClient(address)) as trainer,
            blocking(lambda: AsyncServingClient(address)) as serving,
        ):
            yield Clients(trainer, serving)


AGAIN: list[Callable[[Clients], object]] = [
    lambda clients: clients.trainer.get_job(JOB),
    lambda clients: list(clients.trainer.list_jobs("tenants/acme"))[5:],
    lambda clients: clients.trainer.create_job("tenants/acme", job_pb2.JobSpec()),
    lambda clients: clients.trainer.create_sweep("tenants/acme", sweep_pb2.Sweep()),
    lambda clients: clients.trainer.cancel_job(JOB),
    lambda clients: clients.trainer.trainer_info(),
    lambda clients: clients.serving.get_adapter(ADAPTER),
    lambda clients: clients.serving.record_feedback(
        client.feedback_request(VERSIONS[0], "Where is it?", "Here.")
    ),
]
ONCE: list[Callable[[Clients], object]] = [
    lambda clients: clients.serving.generate_text(ADAPTER, "hello"),
    lambda clients: list(clients.serving.stream_text(ADAPTER, "hello")),
    lambda clients: clients.serving.promote(VERSIONS[0]),
    lambda clients: clients.serving.rollback(ADAPTER),
    lambda clients: clients.serving.set_route(ADAPTER, {VERSIONS[0]: 1}),
    lambda clients: clients.serving.delete_version(VERSIONS[0]),
    lambda clients: clients.trainer.delete_job(JOB),
    lambda clients: clients.trainer.delete_dataset("tenants/acme/datasets/one"),
    lambda clients: clients.trainer.upload_dataset("tenants/acme", "one", [{"prompt": "a"}]),
]


@pytest.mark.parametrize("call", AGAIN)
def test_what_says_the_same_twice_is_made_again_when_the_service_asks_for_it(
    clients: Clients, script: Script, pauses: list[float], call: Callable[[Clients], object]
) -> None:
    script.errors = [errors.Unavailable("starting", retry_after=2.0)] * 3
    assert call(clients)
    assert len(pauses) == 3
    assert all(2.0 <= pause <= 2.4 for pause in pauses)
    first, *others = script.requests[:4]
    assert others == [first] * 3
    if "request_id" in first.DESCRIPTOR.fields_by_name:
        assert first.request_id, "the service can tell that it is the same"


@pytest.mark.parametrize("call", ONCE)
def test_what_may_be_done_twice_is_not_made_again(
    clients: Clients, script: Script, pauses: list[float], call: Callable[[Clients], object]
) -> None:
    script.error = errors.Unavailable("starting", retry_after=0.0)
    with pytest.raises(client.Unavailable):
        call(clients)
    assert len(script.requests) == 1
    assert pauses == []


@pytest.mark.parametrize(
    "error", [errors.Aborted("the engine died"), errors.ResourceExhausted("full"), ValueError()]
)
def test_other_errors_are_not_followed_by_another_attempt(
    clients: Clients, script: Script, pauses: list[float], error: Exception
) -> None:
    script.error = error  # type: ignore[assignment]
    with pytest.raises(client.CallError):
        clients.trainer.get_job(JOB)
    assert len(script.requests) == 1


def test_attempts_are_bounded(clients: Clients, script: Script, pauses: list[float]) -> None:
    script.error = errors.Unavailable("starting", retry_after=1.0)
    with pytest.raises(client.Unavailable):
        clients.trainer.get_job(JOB)
    assert len(script.requests) == 4


def test_who_is_asked_to_wait_long_is_told_so(
    clients: Clients, script: Script, pauses: list[float]
) -> None:
    script.error = errors.Unavailable("starting", retry_after=60.0)
    with pytest.raises(client.Unavailable) as caught:
        clients.trainer.get_job(JOB)
    assert caught.value.retry_after == 60.0
    assert len(script.requests) == 1


def test_no_pause_goes_past_the_calls_own_timeout(
    clients: Clients, script: Script, pauses: list[float]
) -> None:
    script.error = errors.Unavailable("starting", retry_after=1.5)
    request = client.feedback_request(VERSIONS[0], "Where is it?", "Here.")
    with pytest.raises(client.Unavailable):
        clients.serving.record_feedback(request, timeout=1.0)
    assert len(script.requests) == 1


def test_a_service_that_is_not_there_is_asked_again_with_growing_pauses(
    pauses: list[float],
) -> None:
    with TrainerClient("localhost:1") as nobody, pytest.raises(client.Unavailable):
        nobody.get_job(JOB)
    assert len(pauses) == 3
    assert all(
        least <= pause <= 2 * least for least, pause in zip((0.1, 0.2, 0.4), pauses, strict=True)
    )
    pauses.clear()
    with TrainerClient("localhost:1", retries=0) as nobody, pytest.raises(client.Unavailable):
        nobody.get_job(JOB)
    assert pauses == []

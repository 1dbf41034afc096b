"""What becomes of calls whose client is closed, over a real socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

import pytest

from tailorbird import client
from tailorbird.client import AsyncServingClient, AsyncTrainerClient, ServingClient, TrainerClient
from tailorbird.tuning.v1 import job_pb2
from tests.integration.scripted_services import ADAPTER, Script, state

JOB = "tenants/acme/jobs/one"


def _records(begun: threading.Event, go_on: threading.Event) -> Iterator[dict[str, str]]:
    yield {"prompt": "a"}
    begun.set()
    go_on.wait(30)
    yield {"prompt": "b"}


@pytest.mark.parametrize("what", ["answer", "upload"])
def test_a_call_in_flight_is_cancelled(port: int, script: Script, what: str) -> None:
    script.go_on.clear()
    begun, go_on = threading.Event(), threading.Event()
    serving, trainer = ServingClient(f"localhost:{port}"), TrainerClient(f"localhost:{port}")
    caught: list[BaseException] = []

    def call() -> None:
        try:
            if what == "upload":
                trainer.upload_dataset("tenants/acme", "one", _records(begun, go_on))
            for _ in serving.stream_text(ADAPTER, "hello"):
                begun.set()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(30)
    serving.close()
    trainer.close()
    thread.join(30)
    script.go_on.set()
    go_on.set()
    assert isinstance(caught[0], client.Cancelled)
    assert caught[0].reason == "CLIENT_CLOSED"


@pytest.mark.parametrize("what", ["answer", "upload"])
async def test_a_call_in_flight_of_asyncio_is_and_its_task_is_not(
    port: int, script: Script, what: str
) -> None:
    script.go_on.clear()
    begun, go_on = threading.Event(), threading.Event()
    serving, trainer = (
        AsyncServingClient(f"localhost:{port}"),
        AsyncTrainerClient(f"localhost:{port}"),
    )

    async def call() -> None:
        if what == "upload":
            await trainer.upload_dataset("tenants/acme", "one", _records(begun, go_on))
        async for _ in serving.stream_text(ADAPTER, "hello"):
            begun.set()

    task = asyncio.create_task(call())
    assert await asyncio.to_thread(begun.wait, 30)
    await serving.close()
    await trainer.close()
    with pytest.raises(client.Cancelled) as caught:
        await task
    script.go_on.set()
    go_on.set()
    assert caught.value.reason == "CLIENT_CLOSED"
    assert not task.cancelled()


def test_a_call_after_it_is_too(port: int, script: Script) -> None:
    trainer, serving = TrainerClient(f"localhost:{port}"), ServingClient(f"localhost:{port}")
    trainer.close()
    serving.close()
    calls: list[Callable[[], object]] = [
        lambda: trainer.get_job(JOB),
        lambda: list(trainer.watch_job(JOB)),
        lambda: trainer.upload_dataset("tenants/acme", "one", [{"prompt": "a"}]),
        lambda: list(serving.stream_text(ADAPTER, "hello")),
    ]
    for call in calls:
        with pytest.raises(client.Cancelled, match="CLIENT_CLOSED"):
            call()
    assert script.requests == []


async def test_a_call_of_asyncio_after_it_is_too(port: int, script: Script) -> None:
    address = f"localhost:{port}"
    trainer, serving = AsyncTrainerClient(address), AsyncServingClient(address)
    await trainer.close()
    await serving.close()

    async def all_of(items: AsyncGenerator[object]) -> None:
        async for _ in items:
            pass

    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: trainer.get_job(JOB),
        lambda: all_of(trainer.watch_job(JOB)),
        lambda: trainer.upload_dataset("tenants/acme", "one", [{"prompt": "a"}]),
        lambda: all_of(serving.stream_text(ADAPTER, "hello")),
    ]
    for call in calls:
        with pytest.raises(client.Cancelled, match="CLIENT_CLOSED"):
            await call()
    assert script.requests == []


async def test_a_watch_is_not_begun_anew_by_a_client_that_is_closed(
    port: int, script: Script
) -> None:
    go_on = threading.Event()

    def events() -> Iterator[job_pb2.JobEvent]:
        yield state(1, job_pb2.JOB_STATE_RUNNING)
        go_on.wait(30)

    script.events = events()  # type: ignore[assignment]  # one that goes on
    lost: list[client.CallError] = []
    trainer = AsyncTrainerClient(f"localhost:{port}")
    watch = trainer.watch_job(JOB, lost=lambda error, _: lost.append(error))
    assert (await anext(watch)).sequence == 1
    await trainer.close()
    with pytest.raises(client.Cancelled, match="CLIENT_CLOSED"):
        await anext(watch)
    go_on.set()
    assert lost == []


async def test_a_task_that_is_cancelled_while_its_client_closes_is_cancelled(
    port: int, script: Script
) -> None:
    script.go_on.clear()
    begun = asyncio.Event()
    serving = AsyncServingClient(f"localhost:{port}")

    async def call() -> None:
        async for _ in serving.stream_text(ADAPTER, "hello"):
            begun.set()

    task = asyncio.create_task(call())
    await begun.wait()
    task.cancel()
    await serving.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    script.go_on.set()

"""The two services as one page sees them: called with the token of whoever looks at it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import grpc

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters
from tailorbird.adapters.v1.adapter_service_pb2_grpc import AdapterServiceStub
from tailorbird.client import CallError, ServingClient, TrainerClient
from tailorbird.connection import Connection
from tailorbird.console.config import Config
from tailorbird.errors import Aborted, FailedPrecondition
from tailorbird.tuning.v1 import dataset_pb2, job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning
from tailorbird.tuning.v1.tuning_service_pb2_grpc import TuningServiceStub

Item = TypeVar("Item")

PAGE = 25
"""Rows of a list."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some of a list, and the token of what follows; "" if nothing does."""

    items: list[Item]
    next_token: str = ""


class Backend:
    """The services, with one caller's token. Close it: each request of a page has its own.

    gRPC keeps one connection for all channels of the same address and roots, so that opening one
    costs no handshake while another is open.
    """

    def __init__(self, config: Config, token: str, doors: Doors | None) -> None:
        self._config = config
        self._token = token or None
        self._doors = doors
        self._lock = threading.Lock()
        self._is_closed = False
        self._closing = ExitStack()

    def close(self) -> None:
        """End every call that is still open; none can be opened any more."""
        with self._lock:
            self._is_closed = True
        self._closing.close()

    @cached_property
    def trainer(self) -> TrainerClient:
        """The trainer."""
        config = self._config
        self._admitted(config.trainer, _ask_trainer)
        client = TrainerClient(
            config.trainer,
            self._token,
            root_certificates=config.root_certificates,
            plaintext=config.plaintext,
        )
        self._close_with_this(client.close)
        return client

    @cached_property
    def serving(self) -> ServingClient:
        """Serving."""
        config = self._config
        self._admitted(config.serving, _ask_serving)
        client = ServingClient(
            config.serving,
            self._token,
            root_certificates=config.root_certificates,
            plaintext=config.plaintext,
        )
        self._close_with_this(client.close)
        return client

    # The clients list whole collections; a page of HTML wants one page, and the next one's token.

    def list_jobs(
        self, parent: str, state: job_pb2.JobState.ValueType, adapter: str, page_token: str
    ) -> Page[job_pb2.Job]:
        """Return a page of a tenant's jobs, newest first."""
        request = tuning.ListJobsRequest(
            parent=parent, page_size=PAGE, page_token=page_token, state=state, adapter=adapter
        )
        found = self._trainer.call(self._tuning.ListJobs, request)
        return Page(list(found.jobs), found.next_page_token)

    def list_datasets(self, parent: str, page_token: str) -> Page[dataset_pb2.Dataset]:
        """Return a page of a tenant's datasets, by id."""
        request = tuning.ListDatasetsRequest(parent=parent, page_size=PAGE, page_token=page_token)
        found = self._trainer.call(self._tuning.ListDatasets, request)
        return Page(list(found.datasets), found.next_page_token)

    def list_adapters(self, parent: str, page_token: str = "") -> Page[adapters.Adapter]:
        """Return a page of a tenant's adapters, by name."""
        request = adapters.ListAdaptersRequest(parent=parent, page_size=PAGE, page_token=page_token)
        found = self._serving.call(self._adapters.ListAdapters, request)
        return Page(list(found.adapters), found.next_page_token)

    def list_versions(self, parent: str, page_token: str = "") -> Page[adapters.Version]:
        """Return a page of an adapter's versions, newest first."""
        request = adapters.ListVersionsRequest(parent=parent, page_size=PAGE, page_token=page_token)
        found = self._serving.call(self._adapters.ListVersions, request)
        return Page(list(found.versions), found.next_page_token)

    def list_residency(
        self, parent: str, page_token: str
    ) -> tuple[str, Page[adapters.ResidentVersion]]:
        """Return the name of the replica that answers, and a page of what it holds."""
        request = adapters.ListResidencyRequest(
            parent=parent, page_size=PAGE, page_token=page_token
        )
        found = self._serving.call(self._adapters.ListResidency, request)
        return found.replica, Page(list(found.versions), found.next_page_token)

    def watch(
        self, name: str, timeout: float | None = None
    ) -> Generator[tuning.WatchJobResponse, None, None]:
        """Yield a job's events once, without waiting for a trainer that goes away."""
        request = tuning.WatchJobRequest(name=name)
        return self._trainer.stream(self._tuning.WatchJob, request, timeout=timeout)

    def upload(self, requests: Iterator[tuning.UploadDatasetRequest]) -> dataset_pb2.Dataset:
        """Send a dataset's messages."""
        return self._trainer.upload(_uploading, requests).dataset

    @cached_property
    def _trainer(self) -> Connection:
        return self._connected(self._config.trainer, _ask_trainer)

    @cached_property
    def _serving(self) -> Connection:
        return self._connected(self._config.serving, _ask_serving)

    @cached_property
    def _tuning(self) -> TuningServiceStub:
        return TuningServiceStub(self._trainer.channel)

    @cached_property
    def _adapters(self) -> AdapterServiceStub:
        return AdapterServiceStub(self._serving.channel)

    def _connected(self, address: str, ask: Callable[[Backend], object]) -> Connection:
        config = self._config
        self._admitted(address, ask)
        connection = Connection(address, self._token, config.root_certificates, config.plaintext)
        self._close_with_this(connection.channel.close)
        return connection

    def _close_with_this(self, close: Callable[[], None]) -> None:
        """Have a channel closed with this; Aborted, and at once, if this is closed already.

        A browser may leave before the thread that streams to it has opened its call.
        """
        with self._lock:
            if not self._is_closed:
                self._closing.callback(close)
                return
        close()
        raise Aborted("the browser has left", reason="PAGE_LEFT")

    def _admitted(self, address: str, ask: Callable[[Backend], object]) -> None:
        if self._doors is not None:
            self._doors.check(address, ask)


class Doors:
    """Whether the services ask who calls, which a console that others reach must know.

    A service without tokens serves loopback only; the console would open it to whoever comes.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._locked: set[str] = set()

    def check(self, address: str, call: Callable[[Backend], object]) -> None:
        """Raise FailedPrecondition where a service answers a `call` without a token.

        CallError where it does not answer at all. It is asked until it has refused, once.
        """
        if not self._config.exposed:
            return
        # Two may ask at once: who waits for a service that hangs keeps nobody else waiting.
        if address not in self._locked:
            self._ask(address, call)
            self._locked.add(address)

    def _ask(self, address: str, call: Callable[[Backend], object]) -> None:
        anybody = Backend(self._config, "", None)
        try:
            call(anybody)
        except CallError as error:
            if error.code is not grpc.StatusCode.UNAUTHENTICATED:
                raise
        else:
            raise FailedPrecondition(
                f"{address} takes calls without a token, so whoever reaches this console would "
                "act for every tenant: start it with a tokens file, or have the console listen on "
                "loopback, without --allowed-host",
                reason="SERVICE_WITHOUT_TOKENS",
            )
        finally:
            anybody.close()


def _uploading(
    channel: grpc.Channel,
) -> grpc.StreamUnaryMultiCallable[tuning.UploadDatasetRequest, tuning.UploadDatasetResponse]:
    return TuningServiceStub(channel).UploadDataset


def _ask_trainer(backend: Backend) -> object:
    return backend.trainer.trainer_info()


def _ask_serving(backend: Backend) -> object:
    return backend.serving.server_info()

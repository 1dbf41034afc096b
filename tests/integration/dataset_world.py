"""A trainer of two tenants on real sockets: real stores, scripted workers, datasets by URI."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client import CollectorRegistry

from tailorbird.base_model import BaseModelFiles
from tailorbird.feedback import FeedbackStore
from tailorbird.http.server import HttpServer
from tailorbird.object_store import ObstoreStore, open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.rpc.auth import Caller, TokenVerifier
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.status import reason_of
from tailorbird.tuning.v1 import dataset_pb2, job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.integration.test_trainer_api import BASE, metadata
from tests.unit.trainer_svc.fakes import ScriptedChecks, ScriptedExecutor, ScriptedWorker
from trainer_svc.api.servicer import TuningServicer
from trainer_svc.bases import BaseModels
from trainer_svc.datasets.sources import DatasetSources
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.feedback.service import FeedbackService
from trainer_svc.http.routes import routes
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.history import History
from trainer_svc.jobs.limits import TenantLimits
from trainer_svc.jobs.service import TuningService
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.sweep_service import SweepService
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.served import ServingLimits

NO_LIMITS = TenantLimits()
ACME, OTHER = "tenants/acme", "tenants/other"
MOST_BYTES, MOST_RECORD_BYTES = 2**20, 2**16


def token(caller: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {caller}"),)


def lines(*answers: str) -> bytes:
    """A file of records, each with its answer."""
    records = ({"prompt": f"ask {one}", "completion": one} for one in answers)
    return b"".join(json.dumps(each).encode() + b"\n" for each in records)


@dataclass
class World:
    stub: Any
    datasets: DatasetStore
    store: ObstoreStore
    worker: ScriptedWorker
    """Holds every job before its last report."""
    port: int
    http: HttpServer
    registry: CollectorRegistry

    @property
    def openai_url(self) -> str:
        return f"http://127.0.0.1:{self.http.port}/v1"

    def client(self, caller: str = "acme") -> httpx.AsyncClient:
        """Return a client of OpenAI's routes; nobody else's proxy is asked."""
        headers = {"authorization": f"Bearer {caller}"}
        return httpx.AsyncClient(
            base_url=self.openai_url, headers=headers, timeout=30, trust_env=False
        )

    async def call(self, method: str, request: Any, caller: str = "acme") -> Any:
        async with asyncio.timeout(30):
            return await getattr(self.stub, method)(request, metadata=token(caller))

    async def refused(
        self, method: str, request: Any, caller: str = "acme"
    ) -> tuple[str, str, dict[str, str], str]:
        """Make a call that fails; return its code, reason, metadata and message."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, request, caller)
        error = caught.value
        code: str = error.code().name
        return code, reason_of(error), metadata(error), str(error.details())

    async def upload(self, dataset: str, data: bytes, parent: str = ACME, **header: Any) -> Any:
        head = pb.UploadDatasetHeader(parent=parent, dataset_id=dataset, **header)
        messages = [pb.UploadDatasetRequest(header=head), pb.UploadDatasetRequest(chunk=data)]
        caller = token(parent.rpartition("/")[2])
        return (await self.stub.UploadDataset(iter(messages), metadata=caller)).dataset

    async def import_uri(self, uri: str, dataset: str = "imported", **fields: Any) -> Any:
        request = pb.ImportDatasetRequest(parent=ACME, dataset_id=dataset, uri=uri, **fields)
        return (await self.call("ImportDataset", request)).dataset

    async def create(self, data: str, request_id: str = "", **fields: Any) -> Any:
        spec = job_pb2.JobSpec(training_dataset=data, adapter=f"{ACME}/adapters/voice", **fields)
        request = pb.CreateJobRequest(
            parent=ACME, job=job_pb2.Job(spec=spec), request_id=request_id
        )
        return (await self.call("CreateJob", request)).job

    async def ended(self, job: str) -> None:
        """Let jobs go on, and wait for one's end."""
        self.worker.go_on()
        stream = self.stub.WatchJob(pb.WatchJobRequest(name=job), metadata=token("acme"))
        async with asyncio.timeout(20):
            async for _ in stream:
                pass

    async def until_at_work(self, job: str) -> None:
        """Wait until a worker has a job."""
        stream = self.stub.WatchJob(pb.WatchJobRequest(name=job), metadata=token("acme"))
        async with asyncio.timeout(20):
            async for response in stream:
                if response.event.state_changed.state == job_pb2.JOB_STATE_PREPARING:
                    return

    async def ids(self, **fields: Any) -> list[str]:
        request = pb.ListDatasetsRequest(parent=ACME, **fields)
        listed = (await self.call("ListDatasets", request)).datasets
        return [each.name.rpartition("/")[2] for each in listed]

    async def keys(self, under: str = "tenants") -> list[str]:
        return sorted([info.key async for info in self.store.objects(under)])


def name(dataset: str, parent: str = ACME) -> str:
    return f"{parent}/datasets/{dataset}"


def get(dataset: str) -> pb.GetDatasetRequest:
    return pb.GetDatasetRequest(name=name(dataset))


def delete(dataset: str) -> pb.DeleteDatasetRequest:
    return pb.DeleteDatasetRequest(name=name(dataset))


@asynccontextmanager
async def world(
    object_store: ObstoreStore,
    folder: Path,
    prefixes: Mapping[str, tuple[str, ...]],
    tenant_limits: TenantLimits = NO_LIMITS,
    base: BaseModelFiles = BASE,
) -> AsyncIterator[World]:
    database = Database(f"sqlite+aiosqlite:///{folder}/jobs.db")
    await database.migrate()
    feed = Feed()
    jobs = JobStore(database, feed, limits=tenant_limits)
    sources = DatasetSources(prefixes, partial(open_store, retry_seconds=5.0))
    datasets = DatasetStore(
        object_store, folder / "spool", MOST_BYTES, MOST_RECORD_BYTES, sources=sources
    )
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    worker = ScriptedWorker(object_store, hold="step-4")
    bases = BaseModels((base,))
    adapters = AdapterRegistry(object_store)
    dispatcher = Dispatcher(
        jobs, datasets, adapters, ScriptedExecutor(object_store, worker),
        Publisher(jobs, object_store, metrics), metrics,
        bases=bases, workers=1, jobs_per_worker=8, max_worker_losses=3,
    )  # fmt: skip
    limits = ServingLimits(object_store, bases, profile="default", max_lora_rank=64, device="cpu")
    service = TuningService(
        jobs, datasets, feed, dispatcher, adapters, bases, limits, ScriptedChecks(), tenant_limits
    )
    callers = {
        hashlib.sha256(caller.encode()).hexdigest(): Caller(caller, frozenset(caller.split("+")))
        for caller in ("acme", "other", "acme+other")
    }
    verifier = TokenVerifier(callers)
    server = RpcServer("127.0.0.1", 0, verifier, CollectorRegistry(), [])
    feedback = FeedbackService(
        FeedbackStore(object_store), datasets, max_record_bytes=MOST_RECORD_BYTES
    )
    servicer = TuningServicer(
        service, SweepService(service), datasets, feedback, metrics, server.endless,
        max_dataset_bytes=MOST_BYTES, max_record_bytes=MOST_RECORD_BYTES, workers=1,
        jobs_per_worker=8, device="cpu", ready={},
    )  # fmt: skip
    pb_grpc.add_TuningServiceServicer_to_server(servicer, server.grpc)
    await server.start()
    http = HttpServer("127.0.0.1", 0, verifier, registry)
    http.add(routes(service, datasets, History(jobs), bases, metrics, MOST_BYTES))
    await http.start()
    running = asyncio.create_task(dispatcher.run())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = pb_grpc.TuningServiceStub(channel)
        yield World(stub, datasets, object_store, worker, server.port, http, registry)
    await http.stop(0)
    await dispatcher.stop()
    await running
    await server.stop(0)
    await database.close()


FORMAT = dataset_pb2.DATASET_FORMAT_PROMPT_COMPLETION

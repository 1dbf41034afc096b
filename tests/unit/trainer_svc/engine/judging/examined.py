"""Jobs whose result is judged, and the route of what they are judged against."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tailorbird.manifest import REPORT
from tailorbird.names import VersionName
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion
from tests.unit.trainer_svc.engine.tiny import chats, jsonl
from tests.unit.trainer_svc.engine.versions import DIGEST, VERSION
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.protocol import Assignment, Trained, Upload, Uploaded
from trainer_svc.report.model import Report

DATA = jsonl(chats(60))
SHORT = Hyperparameters(epochs=1, batch_tokens=256, checkpoint_interval=100)


async def start(working: Working, data: bytes = DATA, **changes: Any) -> Assignment:
    fields: dict[str, Any] = {
        "base_model_digest": DIGEST,
        "hold_out": True,
        "validation_fraction": None,
        "hyperparameters": SHORT,
    }
    return await working.start("judged", data, **{**fields, **changes})


async def uploaded(working: Working, job: Assignment) -> tuple[Uploaded, Report]:
    await working.until(Trained, job.lease)
    version = "20260105T030405-judged-1"
    working.worker.take(Upload(lease=job.lease, version=version))
    done = await working.until(Uploaded, job.lease)
    report = await working.store.get(f"{job.adapter}/versions/{version}/{REPORT}")
    return done, Report.model_validate_json(report)


async def route(working: Working, generation: int = 3) -> None:
    version = VersionName.parse(VERSION)
    head = Route(
        generation=generation,
        versions=(RoutedVersion(version=version.version),),
        reason="promote",
        actor="somebody",
        create_time=datetime(2026, 1, 2, tzinfo=UTC),
        nonce="theirs",
    )
    await AdapterRegistry(working.store).append_route(version.adapter_name, head)

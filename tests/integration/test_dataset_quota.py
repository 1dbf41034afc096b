"""A quota's refusal as a caller gets it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tailorbird.object_store import ObstoreStore
from tests.integration.dataset_world import World, lines, world
from trainer_svc.datasets.quota import DatasetQuotas


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {}) as trainer:
        trainer.datasets._quotas = DatasetQuotas(object_store, {}, {"acme": 2})
        yield trainer


async def test_the_quota_the_use_and_the_limit_are_named(trainer: World) -> None:
    await trainer.upload("a", lines("one", "two"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await trainer.upload("b", lines("three"))
    error = raised.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info, failure = error_details_pb2.ErrorInfo(), error_details_pb2.QuotaFailure()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(failure)
    assert info.reason == "QUOTA_EXCEEDED"
    assert (info.metadata["used"], info.metadata["asked"], info.metadata["limit"]) == (
        "2",
        "1",
        "2",
    )
    (violation,) = failure.violations
    assert (violation.subject, violation.quota_id) == ("tenants/acme", "dataset_records")
    # Another tenant has none.
    await trainer.upload("b", lines("three", "four", "five"), parent="tenants/other")

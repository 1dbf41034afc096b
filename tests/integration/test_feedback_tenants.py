"""Nothing of a tenant's feedback is seen, made or deleted by a caller who does not hold it."""

from __future__ import annotations

import grpc
import pytest

from tailorbird.feedback import FeedbackStore
from tailorbird.tuning.v1 import feedback_pb2 as pb
from tests.integration.test_sweeps import ACME, Trainer, trainer
from tests.unit.tailorbird.feedback_values import ADAPTER, a_name, a_record

__all__ = ["trainer"]

OTHER = "tenants/other"


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("ListFeedback", pb.ListFeedbackRequest(parent=str(ADAPTER))),
        ("DeleteFeedback", pb.DeleteFeedbackRequest(name=str(a_name()))),
        (
            "ImportFeedback",
            pb.ImportFeedbackRequest(parent=ACME, dataset_id="made", adapter=str(ADAPTER)),
        ),
        (
            "ImportFeedback",
            pb.ImportFeedbackRequest(parent=OTHER, dataset_id="made", adapter=str(ADAPTER)),
        ),
    ],
)
async def test_another_tenant_s_feedback_is_not_found(
    trainer: Trainer, method: str, request_: object
) -> None:
    feedback = FeedbackStore(trainer.store)
    await feedback.create(a_record(rating="good"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.call(method, request_, caller="other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert not [info.key async for info in trainer.store.objects("tenants") if "made" in info.key]
    assert await feedback.get(a_name()) == a_record(rating="good")

"""TuningService at the gRPC edge: the calls about data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from tailorbird.errors import InvalidArgument
from tailorbird.names import (
    AdapterName,
    DatasetName,
    FeedbackName,
    TenantName,
    check_id,
)
from tailorbird.rpc.auth import current_caller
from tailorbird.rpc.paging import page_position, page_size, page_token
from tailorbird.tuning.v1 import feedback_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from trainer_svc.api.convert_datasets import (
    dataset_to_proto,
    format_from_proto,
    personal_data_mode,
    summary_to_proto,
    upload_chunks,
    upload_header,
)
from trainer_svc.api.convert_feedback import (
    import_from_proto,
    import_to_proto,
    of_import,
    page_to_proto,
    period,
    wanted,
)
from trainer_svc.api.convert_lineage import (
    found_to_proto,
    sha256s_from_proto,
    sought_from_proto,
    trained_to_proto,
)
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.search import RecordSearch
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.feedback.service import FeedbackService
from trainer_svc.jobs.service import TuningService
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.report.dataset import HTML, dataset_page

_Context = grpc.aio.ServicerContext[Any, Any]


class DataServicer(pb_grpc.TuningServiceServicer):
    """The calls about datasets, and about feedback that becomes one."""

    def __init__(
        self,
        datasets: DatasetStore,
        feedback: FeedbackService,
        jobs: TuningService,
        metrics: TrainerMetrics,
    ) -> None:
        self._datasets = datasets
        self._search = RecordSearch(datasets)
        self._feedback = feedback
        self._service = jobs
        self._metrics = metrics

    async def UploadDataset(
        self, request_iterator: AsyncIterator[pb.UploadDatasetRequest], context: _Context
    ) -> pb.UploadDatasetResponse:
        """See tuning_service.proto."""
        header = await upload_header(request_iterator)
        tenant = TenantName.parse(header.parent, "header.parent")
        current_caller().check(tenant)
        name = DatasetName(tenant.tenant, check_id("header.dataset_id", header.dataset_id))
        size = header.size_bytes if header.HasField("size_bytes") else None
        dataset = await self._datasets.receive(
            name,
            size,
            upload_chunks(request_iterator),
            format_from_proto(header.format, "header."),
            personal_data_mode(header.personal_data, "header."),
        )
        self._count(dataset)
        return pb.UploadDatasetResponse(dataset=dataset_to_proto(dataset))

    async def ImportDataset(
        self, request: pb.ImportDatasetRequest, context: _Context
    ) -> pb.ImportDatasetResponse:
        """See tuning_service.proto."""
        tenant = TenantName.parse(request.parent)
        current_caller().check(tenant)
        dataset = await self._datasets.import_uri(
            tenant,
            request.uri,
            "uri",
            check_id("dataset_id", request.dataset_id),
            format_from_proto(request.format),
            personal_data_mode(request.personal_data),
        )
        self._count(dataset)
        return pb.ImportDatasetResponse(dataset=dataset_to_proto(dataset))

    async def GetDataset(
        self, request: pb.GetDatasetRequest, context: _Context
    ) -> pb.GetDatasetResponse:
        """See tuning_service.proto."""
        name = DatasetName.parse(request.name)
        current_caller().check(name)
        dataset = await self._datasets.get(name)
        return pb.GetDatasetResponse(dataset=dataset_to_proto(dataset))

    async def GetDatasetReport(
        self, request: pb.GetDatasetReportRequest, context: _Context
    ) -> pb.GetDatasetReportResponse:
        """See tuning_service.proto."""
        name = DatasetName.parse(request.name)
        current_caller().check(name)
        page = dataset_page(await self._datasets.get(name))
        return pb.GetDatasetReportResponse(content_type=HTML, content=page.encode())

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: _Context
    ) -> pb.ListDatasetsResponse:
        """See tuning_service.proto."""
        tenant = TenantName.parse(request.parent)
        current_caller().check(tenant)
        datasets, position = await self._datasets.page(
            tenant, page_size(request.page_size), _position(tenant, request.page_token)
        )
        return pb.ListDatasetsResponse(
            datasets=map(summary_to_proto, datasets), next_page_token=_token(tenant, position)
        )

    async def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, context: _Context
    ) -> pb.DeleteDatasetResponse:
        """See tuning_service.proto."""
        name = DatasetName.parse(request.name)
        current_caller().check(name)
        await self._service.delete_dataset(name)
        return pb.DeleteDatasetResponse()

    async def FindRecord(
        self, request: pb.FindRecordRequest, context: _Context
    ) -> pb.FindRecordResponse:
        """See tuning_service.proto."""
        tenant = TenantName.parse(request.parent)
        current_caller().check(tenant)
        sought = sought_from_proto(request, self._search)
        found = await self._search.page(
            tenant, sought, page_size(request.page_size), _position(tenant, request.page_token)
        )
        return found_to_proto(found, sought, _token(tenant, found.position))

    async def ListTrainedVersions(
        self, request: pb.ListTrainedVersionsRequest, context: _Context
    ) -> pb.ListTrainedVersionsResponse:
        """See tuning_service.proto."""
        tenant = TenantName.parse(request.parent)
        current_caller().check(tenant)
        page = await self._service.trained_versions(
            tenant,
            sha256s_from_proto(request.dataset_sha256),
            page_size(request.page_size),
            _position(tenant, request.page_token),
        )
        return trained_to_proto(page, _token(tenant, page.position))

    async def ListFeedback(
        self, request: feedback_pb2.ListFeedbackRequest, context: _Context
    ) -> feedback_pb2.ListFeedbackResponse:
        """See tuning_service.proto."""
        adapter = AdapterName.parse(request.parent, "parent")
        current_caller().check(adapter)
        page = await self._feedback.list(
            adapter,
            period(request),
            wanted(request),
            page_size(request.page_size),
            page_position(adapter, request.page_token) if request.page_token else "",
        )
        more = page_token(adapter, page.next_position) if page.next_position else ""
        return page_to_proto(page, more)

    async def ImportFeedback(
        self, request: feedback_pb2.ImportFeedbackRequest, context: _Context
    ) -> feedback_pb2.ImportFeedbackResponse:
        """See tuning_service.proto."""
        tenant = TenantName.parse(request.parent)
        current_caller().check(tenant)
        adapter = AdapterName.parse(request.adapter, "adapter")
        current_caller().check(adapter)
        if adapter.tenant != tenant.tenant:
            raise InvalidArgument("adapter", f"{adapter} is not of {tenant}")
        name = DatasetName(tenant.tenant, check_id("dataset_id", request.dataset_id))
        with of_import():
            dataset, imported = await self._feedback.import_(
                name,
                import_from_proto(request, adapter),
                personal_data_mode(request.personal_data),
            )
        self._count(dataset)
        return import_to_proto(dataset, imported)

    async def DeleteFeedback(
        self, request: feedback_pb2.DeleteFeedbackRequest, context: _Context
    ) -> feedback_pb2.DeleteFeedbackResponse:
        """See tuning_service.proto."""
        name = FeedbackName.parse(request.name)
        current_caller().check(name)
        await self._feedback.delete(name)
        return feedback_pb2.DeleteFeedbackResponse()

    def _count(self, dataset: Dataset) -> None:
        self._metrics.datasets.inc()
        self._metrics.dataset_bytes.inc(dataset.size_bytes)


def _position(tenant: TenantName, token: str) -> str:
    return page_position(tenant, token) if token else ""


def _token(tenant: TenantName, position: str) -> str:
    return page_token(tenant, position) if position else ""

"""The datasets that a job names, and those that it makes of URIs. Knows no gRPC and no SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tailorbird.errors import FailedPrecondition, InvalidArgument, NotFound
from tailorbird.names import AdapterName, DatasetName, JobName, SweepName, TenantName
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.jobs.model import JobSpec


class Named(Protocol):
    """Where a job's data is looked up, or comes to be."""

    async def get(self, name: DatasetName) -> Dataset:
        """Return a dataset; NotFound if there is none."""

    async def import_uri(self, tenant: TenantName, uri: str, field: str) -> Dataset:
        """Store the file that a URI names; errors name `field`."""


class JobData(NamedTuple):
    """The datasets of a job."""

    training: Dataset
    validation: Dataset | None = None

    @property
    def names(self) -> tuple[DatasetName, ...]:
        """The names of all of them."""
        return tuple(DatasetName.parse(each.name) for each in self if each is not None)

    def in_spec(self, spec: JobSpec) -> JobSpec:
        """Return a specification that names them where it had URIs."""
        validation = None if self.validation is None else self.validation.name
        return spec.model_copy(
            update={"training_dataset": self.training.name, "validation_dataset": validation}
        )


def is_uri(dataset: str) -> bool:
    """Tell whether a job names its data by a URI; no resource name is one."""
    return "://" in dataset


async def read_data(datasets: Named, tenant: TenantName, spec: JobSpec) -> JobData:
    """Return what a job is trained and validated on; what it names by URIs is imported.

    Raises InvalidArgument, NotFound, and what an import does.
    """
    training = await _named(datasets, tenant, spec.training_dataset, "training_dataset")
    if spec.validation_dataset is None:
        return JobData(training)
    validation = await _named(datasets, tenant, spec.validation_dataset, "validation_dataset")
    if validation.name == training.name:
        raise InvalidArgument(
            "job.spec.validation_dataset", "must be another dataset than training_dataset"
        )
    return JobData(training, validation)


async def _named(datasets: Named, tenant: TenantName, value: str, field: str) -> Dataset:
    if is_uri(value):
        return await datasets.import_uri(tenant, value, f"job.spec.{field}")
    name = DatasetName.parse(value)
    check_tenant(field, name, tenant)
    return await datasets.get(name)


async def check_unchanged(datasets: Named, data: JobData) -> None:
    """Raise NotFound if one of the datasets was deleted since it was read, or is another now."""
    for each in data:
        if each is None:
            continue
        now = await datasets.get(DatasetName.parse(each.name))
        if (now.sha256, now.format) != (each.sha256, each.format):
            raise NotFound(each.name, reason="DATASET_NOT_FOUND")


def check_tenant(field: str, name: AdapterName | DatasetName, tenant: TenantName) -> None:
    """Raise InvalidArgument unless what a job names is of its own tenant."""
    if name.tenant != tenant.tenant:
        raise InvalidArgument(
            f"job.spec.{field}", f"{name} is not of {tenant}", reason="WRONG_TENANT"
        )


def in_use(
    name: DatasetName, users: Sequence[JobName | SweepName], *, more: bool
) -> FailedPrecondition:
    """Return the error of a dataset that these need, which have not ended; `more`: and others."""
    told = ", ".join(map(str, users)) + (", …" if more else "")
    return FailedPrecondition(
        f"{name} is used by {told}: let them end, or cancel them, before it is deleted",
        reason="DATASET_IN_USE",
        jobs=told,
    )

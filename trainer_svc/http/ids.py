"""Ids that clients put into paths: resource names of one tenant, there and back without a state.

file-{dataset}    ftjob-{job}    ftevent-{job}-{sequence}    ftckpt-{job}-{sequence}
"""

from __future__ import annotations

from starlette.requests import Request

from tailorbird.errors import InvalidArgument, NotFound
from tailorbird.http.fields import shown
from tailorbird.http.tenant import tenant_of
from tailorbird.names import DatasetName, JobName, TenantName, is_id
from tailorbird.rpc.auth import current_caller

_FILE, _JOB = "file-", "ftjob-"
_MAX_DIGITS = 18


def caller_tenant(request: Request) -> TenantName:
    """Return the tenant that a request is for; see `tenant_of`."""
    return tenant_of(request.headers, current_caller())


def file_id(dataset: str) -> str:
    """Return the id of the file that a dataset is; `dataset` is a resource name."""
    return _FILE + DatasetName.parse(dataset).dataset


def dataset_of(tenant: TenantName, id_: str, field: str) -> DatasetName:
    """Return the dataset that a file's id stands for; InvalidArgument names `field`."""
    return DatasetName(tenant.tenant, _parsed(id_, _FILE, field))


def dataset_in_path(request: Request) -> DatasetName:
    """Return the dataset that a path names; NotFound for what is no file's id."""
    tenant = caller_tenant(request)
    with_file = request.path_params["file_id"]
    try:
        return dataset_of(tenant, with_file, "file_id")
    except InvalidArgument:
        raise NotFound(f"the file {shown(with_file)}") from None


def job_id(name: JobName) -> str:
    """Return a job's id."""
    return _JOB + name.job


def job_of(tenant: TenantName, id_: str, field: str) -> JobName:
    """Return the job that an id stands for; InvalidArgument names `field`."""
    return JobName(tenant.tenant, _parsed(id_, _JOB, field))


def job_in_path(request: Request) -> JobName:
    """Return the job that a path names; NotFound for what is no job's id."""
    tenant = caller_tenant(request)
    with_job = request.path_params["job_id"]
    try:
        return job_of(tenant, with_job, "job_id")
    except InvalidArgument:
        raise NotFound(f"the job {shown(with_job)}") from None


def entry_id(kind: str, name: JobName, sequence: int) -> str:
    """Return the id of an entry of a job's history; `kind` is ftevent or ftckpt."""
    return f"{kind}-{name.job}-{sequence}"


def sequence_of(kind: str, name: JobName, id_: str) -> int:
    """Return the sequence of the entry after which a page begins; InvalidArgument names `after`."""
    prefix = f"{kind}-{name.job}-"
    digits = id_.removeprefix(prefix)
    if not id_.startswith(prefix) or not (digits.isascii() and digits.isdecimal()):
        raise InvalidArgument("after", f"{shown(id_)} is not of this job: {prefix}...")
    return int(digits[:_MAX_DIGITS])


def _parsed(id_: str, prefix: str, field: str) -> str:
    rest = id_.removeprefix(prefix)
    if not id_.startswith(prefix) or not is_id(rest):
        raise InvalidArgument(field, f"{shown(id_)} is no id that this server gave: {prefix}...")
    return rest

"""Resource names: parsed once at the edge, safe as paths ever after (AIP-122).

tenants/{tenant}                                        TenantName
tenants/{tenant}/jobs/{job}                             JobName
tenants/{tenant}/sweeps/{sweep}                         SweepName
tenants/{tenant}/datasets/{dataset}                     DatasetName
tenants/{tenant}/adapters/{adapter}                     AdapterName
tenants/{tenant}/adapters/{adapter}/versions/{version}  VersionName
tenants/{tenant}/adapters/{adapter}/feedback/{feedback} FeedbackName

Every part matches a rule that leaves no room for a path: no dot, no slash, no upper case but the
`T` of a version's time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from tailorbird.errors import InvalidArgument

_ID = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
VERSION_ID = rf"[0-9]{{8}}T[0-9]{{6}}-{_ID}-[0-9]{{1,9}}"
"""Pattern of a version's own part of its name."""

_ID_RULE = "1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"


def is_id(value: str) -> bool:
    """Tell whether `value` may be a part of a name."""
    return re.fullmatch(_ID, value) is not None


def check_id(field: str, value: str) -> str:
    """Return `value` if it may be a part of a name; InvalidArgument names `field` otherwise."""
    if not is_id(value):
        raise InvalidArgument(
            field, f"{_shown(value)} is not an id: {_ID_RULE}", reason="INVALID_NAME"
        )
    return value


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")


def _match(field: str, value: str, pattern: str, form: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, value)
    if found is None:
        raise InvalidArgument(
            field,
            f"{_shown(value)} is not of the form {form}; an id is {_ID_RULE}",
            reason="INVALID_NAME",
        )
    return found.groups()


@dataclass(frozen=True, slots=True, order=True)
class TenantName:
    """tenants/{tenant}"""

    tenant: str

    @classmethod
    def parse(cls, value: str, field: str = "parent") -> TenantName:
        """Parse `value`; InvalidArgument names `field`."""
        return cls(*_match(field, value, rf"tenants/({_ID})", "tenants/{tenant}"))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}"


@dataclass(frozen=True, slots=True, order=True)
class JobName:
    """tenants/{tenant}/jobs/{job}"""

    tenant: str
    job: str

    @classmethod
    def parse(cls, value: str, field: str = "name") -> JobName:
        """Parse `value`; InvalidArgument names `field`."""
        pattern = rf"tenants/({_ID})/jobs/({_ID})"
        return cls(*_match(field, value, pattern, "tenants/{tenant}/jobs/{job}"))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/jobs/{self.job}"


@dataclass(frozen=True, slots=True, order=True)
class SweepName:
    """tenants/{tenant}/sweeps/{sweep}; the job that carries it out has the same id."""

    tenant: str
    sweep: str

    @classmethod
    def parse(cls, value: str, field: str = "name") -> SweepName:
        """Parse `value`; InvalidArgument names `field`."""
        pattern = rf"tenants/({_ID})/sweeps/({_ID})"
        return cls(*_match(field, value, pattern, "tenants/{tenant}/sweeps/{sweep}"))

    @property
    def job_name(self) -> JobName:
        """The job that carries the sweep out."""
        return JobName(self.tenant, self.sweep)

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/sweeps/{self.sweep}"


@dataclass(frozen=True, slots=True, order=True)
class DatasetName:
    """tenants/{tenant}/datasets/{dataset}"""

    tenant: str
    dataset: str

    @classmethod
    def parse(cls, value: str, field: str = "name") -> DatasetName:
        """Parse `value`; InvalidArgument names `field`."""
        pattern = rf"tenants/({_ID})/datasets/({_ID})"
        return cls(*_match(field, value, pattern, "tenants/{tenant}/datasets/{dataset}"))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/datasets/{self.dataset}"


@dataclass(frozen=True, slots=True, order=True)
class AdapterName:
    """tenants/{tenant}/adapters/{adapter}"""

    tenant: str
    adapter: str

    @classmethod
    def parse(cls, value: str, field: str = "name") -> AdapterName:
        """Parse `value`; InvalidArgument names `field`."""
        pattern = rf"tenants/({_ID})/adapters/({_ID})"
        return cls(*_match(field, value, pattern, "tenants/{tenant}/adapters/{adapter}"))

    def version(self, version: str, field: str = "version") -> VersionName:
        """Return the name of one of this adapter's versions; InvalidArgument names `field`."""
        return VersionName.parse(f"{self}/versions/{version}", field)

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/adapters/{self.adapter}"


@dataclass(frozen=True, slots=True, order=True)
class VersionName:
    """tenants/{tenant}/adapters/{adapter}/versions/{version}; versions sort by time."""

    tenant: str
    adapter: str
    version: str

    @classmethod
    def parse(cls, value: str, field: str = "name") -> VersionName:
        """Parse `value`; InvalidArgument names `field`."""
        pattern = rf"tenants/({_ID})/adapters/({_ID})/versions/({VERSION_ID})"
        form = "tenants/{tenant}/adapters/{adapter}/versions/{YYYYMMDDThhmmss-job-epoch}"
        return cls(*_match(field, value, pattern, form))

    @property
    def adapter_name(self) -> AdapterName:
        """The adapter this is a version of."""
        return AdapterName(self.tenant, self.adapter)

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/adapters/{self.adapter}/versions/{self.version}"


@dataclass(frozen=True, slots=True, order=True)
class FeedbackName:
    """tenants/{tenant}/adapters/{adapter}/feedback/{YYYYMMDD of its recording, UTC}-{32 hex}"""

    tenant: str
    adapter: str
    day: str
    record: str

    @classmethod
    def parse(cls, value: str, field: str = "name") -> FeedbackName:
        """Parse `value`; InvalidArgument names `field`."""
        pattern = rf"tenants/({_ID})/adapters/({_ID})/feedback/([0-9]{{8}})-([0-9a-f]{{32}})"
        form = "tenants/{tenant}/adapters/{adapter}/feedback/{YYYYMMDD-32 hex digits}"
        return cls(*_match(field, value, pattern, form))

    @property
    def adapter_name(self) -> AdapterName:
        """The adapter whose answer it is about."""
        return AdapterName(self.tenant, self.adapter)

    def __str__(self) -> str:
        return f"{self.adapter_name}/feedback/{self.day}-{self.record}"


def version_id(job: JobName, lease_epoch: int, now: datetime) -> str:
    """Return the id of the version that `job` publishes under `lease_epoch`."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S}-{job.job}-{lease_epoch}"

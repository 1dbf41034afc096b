"""The base of everything that is stored as JSON, or said between the service and a worker."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen value that can be stored as JSON.

    Fields that it does not know are ignored: a later release may have written them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)

"""A generation of an adapter's route log: which versions share its traffic, and who said so."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tailorbird.errors import Conflict
from tailorbird.manifest import Instant
from tailorbird.names import VERSION_ID

MAX_ROUTED_VERSIONS = 16
MAX_WEIGHT = 1000

MAX_GENERATION = 10**12 - 1
"""A generation's file has 12 digits."""

RouteReason = Literal["publish", "promote", "rollback", "set"]


class RoutedVersion(BaseModel):
    """A version and its share of the adapter's traffic."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: Annotated[str, Field(pattern=f"^{VERSION_ID}$")]
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] = 100


class Route(BaseModel):
    """One generation of an adapter's route log; `nonce` tells its writer that it was its own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    generation: Annotated[int, Field(ge=1, le=MAX_GENERATION)]
    versions: Annotated[
        tuple[RoutedVersion, ...], Field(min_length=1, max_length=MAX_ROUTED_VERSIONS)
    ]
    reason: str
    actor: str
    create_time: Instant
    nonce: str

    @field_validator("versions")
    @classmethod
    def _distinct(cls, versions: tuple[RoutedVersion, ...]) -> tuple[RoutedVersion, ...]:
        if len({routed.version for routed in versions}) < len(versions):
            raise ValueError("a version is routed twice")
        return versions

    @property
    def version(self) -> str:
        """Id of the version of largest weight; of several such, the first."""
        return max(self.versions, key=lambda routed: routed.weight).version

    def leads_to(self, version: str) -> bool:
        """Tell whether the version of this id has a share of the traffic."""
        return any(routed.version == version for routed in self.versions)

    def splits_like(self, versions: tuple[RoutedVersion, ...]) -> bool:
        """Tell whether `versions` have the same shares here; one alone always has all."""
        if len(versions) == len(self.versions) == 1:
            return versions[0].version == self.versions[0].version
        return {(routed.version, routed.weight) for routed in versions} == {
            (routed.version, routed.weight) for routed in self.versions
        }


class RouteConflict(Conflict):
    """The generation to be written was written by somebody else."""

    default_reason = "ROUTE_CONFLICT"

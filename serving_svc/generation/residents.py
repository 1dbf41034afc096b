"""What this replica holds of a tenant's versions: shown, warmed, pinned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from serving_svc.adapters.disk import AdapterDisk
from serving_svc.adapters.paging import Page
from serving_svc.adapters.refusals import Refusal, Refusals
from serving_svc.generation.life import Life, Lives
from serving_svc.generation.warming import Warmer
from tailorbird.errors import Unavailable
from tailorbird.names import TenantName, VersionName


@dataclass(frozen=True, slots=True)
class Resident:
    """What this replica holds of one version; `tier` None: nothing, for it was refused."""

    version: VersionName
    tier: Literal["disk", "engine"] | None
    pinned: bool
    leases: int
    size: int
    refusal: Refusal | None


class Named(Protocol):
    """Who knows which versions are deleted."""

    def named(self, version: VersionName) -> object:
        """Note that the version is used; NotFound (VERSION_DELETED) if it is known as deleted."""


class Residents:
    """The use cases WarmVersion and ListResidency."""

    def __init__(
        self, lives: Lives, routes: Named, warmer: Warmer, disk: AdapterDisk, refusals: Refusals
    ) -> None:
        self._lives = lives
        self._routes = routes
        self._warmer = warmer
        self._disk = disk
        self._refusals = refusals

    async def warm_version(self, version: VersionName, pin: bool | None) -> Resident:
        """Load a version, and pin or unpin it unless `pin` is None.

        Raises what `Warmer.hold` raises, and FailedPrecondition (PINS_EXHAUSTED).
        """
        async with self._warmer.hold(version):
            # Deleted meanwhile or before, it may be in its slot until another needs that.
            self._routes.named(version)
            if pin:
                self._warmer.pin(version)
            elif pin is not None:
                self._warmer.unpin(version)
            return self._of(version.tenant)[version]

    async def list_residency(self, tenant: TenantName, page: Page) -> tuple[list[Resident], str]:
        """Return a page of what this replica holds of the tenant's versions, and its token."""
        found = self._of(tenant.tenant)
        names, token = page.cut(sorted(found, key=str))
        return [found[name] for name in names], token

    def _of(self, tenant: str) -> dict[VersionName, Resident]:
        life = self._life()
        loaded = {*life.residency.versions(), *life.residency.kept()} if life else set()
        sizes = {held.version: held.size for held in self._disk.versions()}
        refused = self._refusals.of_tenant(TenantName(tenant))
        return {
            version: Resident(
                version,
                "engine" if version in loaded else "disk" if version in sizes else None,
                self._warmer.is_pinned(version),
                life.scheduler.leases(version) if life else 0,
                sizes.get(version, 0),
                refused.get(version),
            )
            for version in {*loaded, *sizes, *refused}
            if version.tenant == tenant
        }

    def _life(self) -> Life | None:
        try:
            return self._lives.current()
        except Unavailable:
            return None

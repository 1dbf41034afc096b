"""The tail of a job: what is committed in the job store and then written to the object store."""

from __future__ import annotations

from operator import not_
from typing import Any

import structlog
from pydantic import Field, ValidationError

from tailorbird.manifest import AdapterManifest
from tailorbird.names import AdapterName, JobName, VersionName
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RouteConflict
from trainer_svc.record import Record

BASE_CHANGED = "BASE_CHANGED"
"""Why a version is not promoted: the adapter's traffic goes to versions of another base."""

_log = structlog.get_logger(__name__)


class Publication(Record):
    """A committed version.

    `route` is exactly the generation to write, or None: by policy MANUAL, or because of `refusal`.
    """

    manifest: AdapterManifest
    route: Route | None
    refusal: str = ""
    manifest_json: str = Field(default="", exclude_if=not_)
    """What is written, to the byte, whichever release does it; "" of earlier releases."""
    route_json: str = Field(default="", exclude_if=not_)

    @classmethod
    def of(
        cls, manifest: AdapterManifest, route: Route | None = None, refusal: str = ""
    ) -> Publication:
        """Return what is to be committed of a version, and of a route that is to lead to it."""
        return cls(
            manifest=manifest,
            route=route,
            refusal=refusal,
            manifest_json=manifest.to_json().decode(),
            route_json=route.model_dump_json() if route else "",
        )

    @property
    def version_name(self) -> VersionName:
        """The version that is published."""
        return VersionName.parse(self.manifest.version)

    @property
    def adapter_name(self) -> AdapterName:
        """The adapter that gets the version."""
        return self.version_name.adapter_name


class Outcome(Record):
    """Whether the route moved; `refusal` says why it did not where it should have."""

    promoted: bool
    refusal: str = ""
    route_generation: int = 0


def readable_publication(job: JobName, stored: Any) -> Publication | None:
    """Return a stored publication, or None if this release cannot read it: then it is left."""
    try:
        return Publication.model_validate(stored)
    except ValidationError as error:
        _log.error("publication not understood", job=str(job), errors=error.error_count())
        return None


async def publish(registry: AdapterRegistry, publication: Publication) -> Outcome:
    """Write the manifest, then the route. Idempotent: any later holder of the job may replay it.

    A generation that somebody else took is not retried higher: their decision is newer than the
    one this job's policy was made on. Raises StoreUnavailable, after which it may be called again.
    """
    text = publication.manifest_json.encode() or None
    await registry.publish(publication.version_name, publication.manifest, text)
    if publication.route is None:
        return Outcome(promoted=False, refusal=publication.refusal)
    try:
        text = publication.route_json.encode() or None
        await registry.append_route(publication.adapter_name, publication.route, text)
    except RouteConflict as conflict:
        return Outcome(promoted=False, refusal=conflict.reason)
    return Outcome(promoted=True, route_generation=publication.route.generation)

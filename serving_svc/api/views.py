"""What the edge shows of adapters: the properties it reads, whoever has them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Protocol

from tailorbird.manifest import AdapterManifest
from tailorbird.names import AdapterName, VersionName
from tailorbird.routes import Route


class Refusal(Protocol):
    """Why a version is not served."""

    @property
    def reason(self) -> str:
        """UPPER_SNAKE, stable."""

    @property
    def message(self) -> str:
        """For a person."""

    @property
    def retryable(self) -> bool:
        """Whether it is tried again."""

    @property
    def retry_at(self) -> datetime | None:
        """When it is tried again."""


class AdapterState(Protocol):
    """An adapter, and what this replica makes of it."""

    @property
    def name(self) -> AdapterName:
        """Its name."""

    @property
    def route(self) -> Route | None:
        """Its newest route."""

    @property
    def effective_generation(self) -> int:
        """The generation in effect here; 0 for none."""

    @property
    def refusals(self) -> Mapping[VersionName, Refusal]:
        """Its versions that are refused here."""


class PublishedVersion(Protocol):
    """A version in the registry."""

    @property
    def name(self) -> VersionName:
        """Its name."""

    @property
    def manifest(self) -> AdapterManifest | None:
        """None if it cannot be read."""

    @property
    def refusal(self) -> Refusal | None:
        """Why it is refused here."""

    @property
    def delete_time(self) -> datetime | None:
        """When it was deleted."""

    @property
    def report(self) -> Mapping[str, Any] | None:
        """Its report.json, if it was asked for and can be read."""


class Resident(Protocol):
    """What this replica holds of a version."""

    @property
    def version(self) -> VersionName:
        """Its name."""

    @property
    def tier(self) -> Literal["disk", "engine"] | None:
        """Where it is. None: nowhere, for it was refused."""

    @property
    def pinned(self) -> bool:
        """Whether it keeps its slot without traffic."""

    @property
    def leases(self) -> int:
        """Requests that hold it."""

    @property
    def size(self) -> int:
        """Bytes on local disk."""

    @property
    def refusal(self) -> Refusal | None:
        """Why it is refused here."""

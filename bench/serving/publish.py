"""Publishes PEFT folders as training does: files, manifest, route."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from pathlib import Path

from tailorbird.base_model import BaseModelFiles
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PROBES,
    AdapterManifest,
    EvaluationSummary,
    Lineage,
    file_entry,
)
from tailorbird.names import AdapterName, JobName, VersionName, version_id
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion

_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES)


class Publisher:
    """Publishes into one store what was made for one base."""

    def __init__(self, store_url: str, base: BaseModelFiles) -> None:
        self._registry = AdapterRegistry(open_store(store_url))
        self._base = base
        self._count = 0

    async def publish(self, adapter: AdapterName, folder: Path) -> VersionName:
        """Make the files in `folder` a version, without a route."""
        self._count += 1
        job = JobName(adapter.tenant, f"bench-{self._count}")
        version = adapter.version(version_id(job, 1, datetime.now(UTC)))
        for name in _FILES:
            await self._registry.store.upload(f"{version}/{name}", folder / name)
        await self._registry.publish(version, self._manifest(version, job, folder))
        return version

    async def route(self, version: VersionName) -> None:
        """Route a new adapter to its first version."""
        route = Route(
            generation=1,
            versions=(RoutedVersion(version=version.version),),
            reason="publish",
            actor="bench",
            create_time=datetime.now(UTC),
            nonce=version.version,
        )
        await self._registry.append_route(version.adapter_name, route)

    def _manifest(self, version: VersionName, job: JobName, folder: Path) -> AdapterManifest:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
        return AdapterManifest(
            version=str(version),
            create_time=datetime.now(UTC),
            base_model=self._base.name,
            base_model_digest=self._base.digest,
            chat_template_digest=self._base.chat_template_digest,
            rank=config["r"],
            alpha=config["lora_alpha"],
            use_rslora=config["use_rslora"],
            target_modules=tuple(sorted(config["target_modules"])),
            tensors=tensor_shapes(folder / ADAPTER_WEIGHTS),
            files={name: file_entry(folder / name) for name in _FILES},
            lineage=Lineage(
                job=str(job),
                training_dataset=f"tenants/{job.tenant}/datasets/bench",
                training_dataset_sha256="0" * 64,
                spec_sha256="0" * 64,
                parent_version="",
                code_version="bench",
            ),
            evaluation=EvaluationSummary(
                steps=0, training_loss=0.0, validation_loss=None, base_validation_loss=None
            ),
        )


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a safetensors file of our own making."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}

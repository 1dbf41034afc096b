"""ImportAdapter: an existing PEFT adapter, uploaded or read from a URI, becomes a version.

Its two files come to a folder of their own, pass the gate as any version's do, and go into the
engine for as long as its probes take. Then everything is published, the manifest last: an import
that is interrupted before that leaves files that no reader takes for a version, for the collector.
Nothing is routed. A call whose reply is lost may have published; made again it publishes another
version.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog
from pydantic import ValidationError

from serving_svc.adapters.disk.download import append
from serving_svc.adapters.disk.index import delete, disk_errors
from serving_svc.adapters.gate import ServedBase, check_files, check_manifest
from serving_svc.adapters.gate.peft_config import MAX_CONFIG_BYTES, read_config
from serving_svc.adapters.gate.safetensors_file import header_limit, read_header
from serving_svc.adapters.gate.weights import target_modules
from serving_svc.adapters.importing.probes import candidates, measured, unmeasured
from serving_svc.adapters.importing.sources import IMPORTED_FILES, ImportSources
from serving_svc.adapters.model import LoadedAdapter, StagedAdapter
from serving_svc.adapters.replay import ProbeEngine
from serving_svc.adapters.workers import Workers
from tailorbird import __version__
from tailorbird.errors import (
    Aborted,
    AdapterRefused,
    InvalidArgument,
    ResourceExhausted,
    StoreUnavailable,
)
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CARD,
    PROBES,
    AdapterManifest,
    EvaluationSummary,
    Lineage,
    Probes,
    file_entry,
)
from tailorbird.names import AdapterName, JobName, TenantName, VersionName, version_id
from tailorbird.registry import AdapterRegistry

_log = structlog.get_logger(__name__)

_CONCURRENT = 4
# Who sends a byte now and then keeps others from importing no longer than this.
_RECEIVE_SECONDS = 3600.0
_UPLOADED = "upload"

Pieces = AsyncIterator[tuple[str, bytes | memoryview]]
"""(file, bytes) in order: the pieces of one file come together."""


class ScratchLoader(Protocol):
    """What importing needs of the scheduler and what it loads with."""

    def scratch(self, staged: StagedAdapter) -> AbstractAsyncContextManager[LoadedAdapter]:
        """Keep a folder in the engine, in a slot, inside the block.

        Raises AdapterRefused (LOAD_FAILED), ResourceExhausted, EngineDied.
        """


class AdapterImporter:
    """Imports adapters for the base served here.

    At most four run at a time, and one a tenant, each with up to `max_weights_bytes` of weights
    under `folder`, where nobody else writes; a source that sends nothing for `stall_seconds` is
    given up. `probe_floor` is the gate's, in nats per token. `workers` are closed by their owner.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        base: ServedBase,
        base_model: str,
        engine: ProbeEngine,
        loader: ScratchLoader,
        sources: ImportSources,
        workers: Workers,
        folder: Path,
        *,
        max_weights_bytes: int,
        probe_floor: float,
        stall_seconds: float,
    ) -> None:
        self._registry = registry
        self._base = base
        self._base_model = base_model
        self._engine = engine
        self._loader = loader
        self._sources = sources
        self._workers = workers
        self._folder = folder.resolve()
        self._limits = {ADAPTER_CONFIG: MAX_CONFIG_BYTES, ADAPTER_WEIGHTS: max_weights_bytes}
        # What tensors for every layer of the base need.
        self._max_header_bytes = header_limit(
            f"base_model.model.{layer}.lora_{part}.weight" for layer in base.linear for part in "AB"
        )
        self._probe_floor = probe_floor
        self._stall_seconds = stall_seconds
        self._tenants: set[str] = set()

    async def open(self) -> None:
        """Delete what an earlier process left."""
        await self._workers.run(delete, self._folder)

    async def import_(
        self, adapter: AdapterName, source: str | Pieces
    ) -> tuple[VersionName, AdapterManifest]:
        """Publish the adapter at a URI, or the one whose pieces come, as a version of `adapter`.

        Raises InvalidArgument for a URI that is not allowed or pieces that are not in order,
        AdapterRefused, ResourceExhausted (IMPORTS_BUSY, IMPORT_UNDER_WAY, DISK_FULL, and what a
        slot raises), Aborted (UPLOAD_STALLED), StoreUnavailable, Unavailable.
        """
        with self._place(adapter.tenant), disk_errors():
            folder = self._folder / uuid.uuid4().hex
            try:
                await self._workers.run(folder.mkdir, parents=True)
                if isinstance(source, str):
                    async with aclosing(
                        self._sources.pieces(TenantName(adapter.tenant), source)
                    ) as found:
                        await self._receive(folder, found, from_store=True)
                else:
                    await self._receive(folder, source, from_store=False)
                return await self._import(
                    adapter, folder, source if isinstance(source, str) else _UPLOADED
                )
            finally:
                await self._workers.run(delete, folder)

    async def _receive(
        self, folder: Path, pieces: AsyncIterator[tuple[str, bytes | memoryview]], from_store: bool
    ) -> None:
        sizes: dict[str, int] = {}
        current = ""
        until = asyncio.get_running_loop().time() + _RECEIVE_SECONDS
        while (piece := await self._next(pieces, from_store, until)) is not None:
            name, data = piece
            if name not in self._limits:
                raise InvalidArgument(
                    "chunk.path", f"{name[:100]!r} is not one of {IMPORTED_FILES}"
                )
            if name != current and name in sizes:
                raise InvalidArgument("chunk.path", f"the pieces of {name} do not come together")
            current = name
            sizes[name] = sizes.get(name, 0) + len(data)
            if sizes[name] > self._limits[name]:
                raise InvalidArgument(
                    "chunk.data",
                    f"{name} has more than {self._limits[name]} bytes",
                    reason="IMPORT_TOO_LARGE",
                )
            await self._workers.run(append, folder / name, data)
        missing = [name for name in IMPORTED_FILES if name not in sizes]
        if missing:
            raise InvalidArgument("chunk", f"{missing[0]} was not sent")

    async def _next(
        self,
        pieces: AsyncIterator[tuple[str, bytes | memoryview]],
        from_store: bool,
        until: float,
    ) -> tuple[str, bytes | memoryview] | None:
        stalled = asyncio.get_running_loop().time() + self._stall_seconds
        try:
            async with asyncio.timeout_at(min(stalled, until)):
                return await anext(pieces, None)
        except TimeoutError as error:
            problem = (
                f"the adapter's files stopped coming for {self._stall_seconds:g} s, or took "
                f"{_RECEIVE_SECONDS:g} s in all"
            )
            if from_store:
                raise StoreUnavailable(problem) from error
            raise Aborted(problem, reason="UPLOAD_STALLED") from error

    async def _import(
        self, adapter: AdapterName, folder: Path, source: str
    ) -> tuple[VersionName, AdapterManifest]:
        now = datetime.now(UTC)
        job = JobName(adapter.tenant, f"import-{uuid.uuid4().hex[:8]}")
        version = adapter.version(version_id(job, 1, now))
        sequences = candidates(self._base.vocab_size, self._base.max_model_len, version.version)
        manifest, size = await self._workers.run(
            self._check, folder, version, now, source, unmeasured(sequences)
        )
        staged = StagedAdapter(version, folder, size, unmeasured(sequences))
        async with self._loader.scratch(staged) as loaded:
            probes = await measured(self._engine, loaded, sequences, self._probe_floor)
        manifest = await self._workers.run(_complete, folder, manifest, probes)
        await self._publish(version, folder, manifest)
        _log.info("adapter imported", version=str(version), source=source)
        return version, manifest

    def _check(
        self, folder: Path, version: VersionName, now: datetime, source: str, probes: Probes
    ) -> tuple[AdapterManifest, int]:
        """Put the files through the gate; return their manifest and their size. Blocking."""
        (folder / PROBES).write_bytes(probes.to_json())
        lora = read_config(folder / ADAPTER_CONFIG)
        try:
            header = read_header(folder / ADAPTER_WEIGHTS, self._max_header_bytes)
        except ValueError as error:
            raise AdapterRefused(f"{ADAPTER_WEIGHTS}: {error}", reason="TENSOR_MISMATCH") from error
        tensors = {name: tensor.shape for name, tensor in header.items()}
        files = {name: file_entry(folder / name) for name in (*IMPORTED_FILES, PROBES)}
        try:
            manifest = AdapterManifest(
                version=str(version),
                create_time=now,
                base_model=self._base_model,
                # An import says itself that it was made for this base: its probes are what proves.
                base_model_digest=self._base.digest,
                chat_template_digest=self._base.chat_template_digest,
                rank=lora.rank,
                alpha=lora.alpha,
                use_rslora=lora.use_rslora,
                target_modules=tuple(sorted(target_modules(tensors))),
                tensors=tensors,
                files=files,
                lineage=Lineage(
                    job="",
                    training_dataset="",
                    training_dataset_sha256="",
                    spec_sha256="",
                    parent_version="",
                    code_version="",
                    imported_from=source,
                ),
                evaluation=EvaluationSummary(),
            )
        except ValidationError as error:
            raise AdapterRefused(
                f"{ADAPTER_CONFIG} has values that no manifest holds", reason="CONFIG_UNSUPPORTED"
            ) from error
        check_manifest(manifest, self._base)
        check_files(folder, manifest, self._base)
        return manifest, sum(entry.size for entry in files.values())

    async def _publish(self, version: VersionName, folder: Path, manifest: AdapterManifest) -> None:
        # The version's id was drawn for this import alone: nothing is there to be overwritten.
        for name in manifest.files:
            await self._registry.store.upload(f"{version}/{name}", folder / name)
        await self._registry.publish(version, manifest)

    @contextmanager
    def _place(self, tenant: str) -> Iterator[None]:
        if tenant in self._tenants:
            raise ResourceExhausted(
                f"an import of tenants/{tenant} is under way; one runs at a time",
                reason="IMPORT_UNDER_WAY",
            )
        if len(self._tenants) >= _CONCURRENT:
            raise ResourceExhausted(
                f"{_CONCURRENT} imports are under way, the most that run at a time",
                reason="IMPORTS_BUSY",
            )
        self._tenants.add(tenant)
        try:
            yield
        finally:
            self._tenants.discard(tenant)


def _complete(folder: Path, manifest: AdapterManifest, probes: Probes) -> AdapterManifest:
    """Write the certificate and the model card; return the manifest that tells them. Blocking."""
    (folder / PROBES).write_bytes(probes.to_json())
    (folder / MODEL_CARD).write_text(_model_card(manifest), "utf-8")
    files = {
        name: file_entry(folder / name)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES, MODEL_CARD)
    }
    return manifest.model_copy(update={"files": files})


def _model_card(manifest: AdapterManifest) -> str:
    kind = " (rsLoRA)" if manifest.use_rslora else ""
    rows = {
        "Base model": f"{manifest.base_model} (`{manifest.base_model_digest}`)",
        "Imported from": f"`{manifest.lineage.imported_from}`",
        "Rank, alpha": f"{manifest.rank}, {manifest.alpha:g}{kind}",
        "Layers": ", ".join(manifest.target_modules),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"---\nlibrary_name: peft\ntags: [lora, tailorbird]\n---\n\n# {manifest.version}\n\n"
        f"A LoRA adapter, imported by Tailorbird {__version__} for this base by its owner's word. "
        "`probes.json` holds what the serving engine computed with it at the import.\n\n"
        f"| | |\n|---|---|\n{table}\n"
    )

"""A job's checkpoints in the object store: save, restore, keep the newest two and the best.

tenants/{tenant}/jobs/{job}/checkpoints/lease-{epoch:06d}/{step:08d}/
    adapter-{digest}.safetensors  optimizer-{digest}.safetensors  state-{digest}.json
    manifest.json (last)

Order, dropout and schedule are functions of seed and step, so the weights, the optimizer's moments
and the figures of `RunState` are all there is to keep. Files are named after what is in them: a
step that is saved again, judged by now, never breaks the manifest that is there.

Only the newest lease that has a whole checkpoint counts. A holder that lost its lease may have
written a later step since: its lease is the lower one, and what it wrote is never read beside the
next holder's, nor can it delete any of that.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from tailorbird.errors import DataCorrupt, NotFound, StoreUnavailable
from tailorbird.names import JobName
from tailorbird.object_store import ObjectStore, delete_folder
from trainer_svc.checkpoints import (
    CHECKPOINT_MANIFEST,
    checkpoints_prefix,
    lease_epoch,
    lease_folder,
    trial_prefix,
)
from trainer_svc.engine.step.run import RunState, Snapshot

_KEPT = 2
_LOOKS = 3
_ROLES = ("adapter", "optimizer", "state")
_UNLEASED = 0
"""Stands for the epoch of checkpoints of earlier releases, which have no lease's folder."""

log = structlog.get_logger(__name__)


class MadeFor(BaseModel):
    """What a checkpoint can be used for: one specification on one base with one tokenizer.

    Where records are held out otherwise than the specification alone says, its digest says how.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    spec_sha256: str
    base_model_digest: str
    chat_template_digest: str


class CheckpointManifest(BaseModel):
    """What makes a checkpoint whole: the SHA-256 of each file, by its name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    made_for: MadeFor
    best: bool
    """Whether its validation loss was the lowest when it was written."""
    files: dict[str, str]


@dataclass(frozen=True)
class Restored:
    """Where a run goes on, and the best it has been; None if that was never kept."""

    latest: Snapshot
    best: Snapshot | None
    epoch: int
    """Of the lease that wrote them; 0 of an earlier release's."""


class Checkpoints:
    """The checkpoints of one job, or of one trial of a sweep, as the holder of one lease has them.

    One lease has one of these, of each trial, and one call of it at a time.
    """

    def __init__(
        self,
        store: ObjectStore,
        job: JobName,
        made_for: MadeFor,
        *,
        epoch: int,
        trial: int | None = None,
    ) -> None:
        self._store = store
        self._job = job
        self._folder = checkpoints_prefix(job) if trial is None else trial_prefix(job, trial)
        self._epoch = epoch
        self._asked = self._made_for = made_for
        self._whole: set[int] = set()
        """Steps that this lease has written, and that are whole."""
        self._best: int | None = None

    def held_out_by(self, draw: str) -> None:
        """Take only those whose run had the same records held out: see `Preparation.draw`."""
        self._made_for = self._asked
        if draw:
            # In a field that every release compares.
            spec = _digest(f"{self._asked.spec_sha256}\n{draw}".encode())
            self._made_for = self._asked.model_copy(update={"spec_sha256": spec})

    async def save(self, snapshot: Snapshot, *, best: bool) -> None:
        """Write a checkpoint, then delete what need not be kept.

        Raises StoreUnavailable: then those that were whole before are whole still.
        """
        await self._write(snapshot, best=best or snapshot.step == self._best)
        await self._delete_old()

    async def any(self) -> bool:
        """Tell whether there is a checkpoint, if perhaps none of use; StoreUnavailable."""
        for epoch in await self._epochs():
            if await self._steps(epoch):
                return True
        return False

    async def restore(self) -> Restored | None:
        """Return the newest checkpoint that is whole and the best one; None if there is none.

        Both are of the newest lease, up to this one, that has any. Whatever is not whole, or made
        for something else, is deleted. Raises StoreUnavailable.
        """
        # An earlier holder that does not know it yet may delete one that is read here, and have
        # written a newer one.
        for _ in range(_LOOKS):
            for epoch in await self._epochs():
                if (found := await self._restore_of(epoch)) is not None:
                    return found
            if not await self.any():
                break
        return None

    async def take_over(self, found: Restored) -> None:
        """Write what was restored of an earlier lease as this one's, and delete the earlier ones.

        From then on nothing that an earlier holder still writes is read. Raises StoreUnavailable.
        """
        if found.epoch == self._epoch:
            return
        latest, best = found.latest, found.best
        if best is not None and best.step != latest.step:
            await self._write(best, best=True)
        await self._write(latest, best=best is not None and best.step == latest.step)
        await self._delete_old()

    async def discard(self, found: Restored) -> None:
        """Delete the newest of what was restored, which is of no use; StoreUnavailable."""
        await self._discard(found.epoch, found.latest.step)

    async def delete(self) -> None:
        """Delete them all: the run is of no use any more; StoreUnavailable."""
        self._whole.clear()
        self._best = None
        for epoch in await self._epochs():
            for step in await self._steps(epoch):
                await self._discard(epoch, step)

    async def _write(self, snapshot: Snapshot, *, best: bool) -> None:
        step = snapshot.step
        files = await asyncio.to_thread(_files, snapshot)
        manifest = CheckpointManifest(
            made_for=self._made_for,
            best=best,
            files={name: _digest(data) for name, data in files.items()},
        )
        try:
            for name, data in files.items():
                await self._store.put(self._key(self._epoch, step, name), data)
            await self._store.put(
                self._key(self._epoch, step, CHECKPOINT_MANIFEST),
                manifest.model_dump_json().encode(),
            )
        except StoreUnavailable:
            await self._remove_part(step)
            raise
        self._whole.add(step)
        if best:
            self._best = step

    async def _restore_of(self, epoch: int) -> Restored | None:
        latest: Snapshot | None = None
        for step in reversed(await self._steps(epoch)):
            try:
                manifest = await self._manifest(epoch, step)
                if latest is None or manifest.best:
                    snapshot = await self._read(epoch, step, manifest)
                    latest = latest or snapshot
            except (DataCorrupt, NotFound) as error:
                log.warning("checkpoint unusable", job=str(self._job), step=step, error=str(error))
                await self._discard(epoch, step)
                continue
            if epoch == self._epoch:
                self._whole.add(step)
            if manifest.best:
                if epoch == self._epoch:
                    self._best = step
                return Restored(latest, snapshot, epoch)
        return Restored(latest, None, epoch) if latest else None

    async def _discard(self, epoch: int, step: int) -> None:
        if epoch == self._epoch:
            self._whole.discard(step)
        await delete_folder(self._store, self._key(epoch, step), first=CHECKPOINT_MANIFEST)

    async def _remove_part(self, step: int) -> None:
        if step in self._whole:
            return
        try:
            await self._discard(self._epoch, step)
        except StoreUnavailable as error:
            log.warning("part of a checkpoint stays", step=step, error=error.message)

    async def _delete_old(self) -> None:
        """Delete what this lease's own have replaced, of this lease and of earlier ones."""
        kept = {*sorted(self._whole)[-_KEPT:], self._best}
        try:
            for epoch in await self._epochs():
                for step in await self._steps(epoch):
                    if epoch < self._epoch or (step not in kept and step < max(self._whole)):
                        await self._discard(epoch, step)
        except StoreUnavailable as error:
            log.warning("old checkpoints stay", job=str(self._job), error=error.message)

    async def _manifest(self, epoch: int, step: int) -> CheckpointManifest:
        stored = await self._store.get(self._key(epoch, step, CHECKPOINT_MANIFEST))
        try:
            manifest = CheckpointManifest.model_validate_json(stored)
        except ValidationError as error:
            raise DataCorrupt("the manifest is none") from error
        if manifest.made_for != self._made_for:
            raise DataCorrupt("it was made for another specification, base or tokenizer")
        return manifest

    async def _read(self, epoch: int, step: int, manifest: CheckpointManifest) -> Snapshot:
        files: dict[str, bytes] = {}
        for name, digest in manifest.files.items():
            role = name.partition("-")[0]
            if role in _ROLES:
                files[role] = await self._store.get(self._key(epoch, step, name))
                if _digest(files[role]) != digest:
                    raise DataCorrupt(f"{name} is not what was written")
        return await asyncio.to_thread(_snapshot, step, files)

    async def _epochs(self) -> list[int]:
        """Return the leases that have written, newest first; a later one's are not for this."""
        found = map(lease_epoch, await self._store.folders(self._folder))
        leases = {epoch for epoch in found if epoch is not None and epoch <= self._epoch}
        return [*sorted(leases, reverse=True), _UNLEASED]

    async def _steps(self, epoch: int) -> list[int]:
        folders = await self._store.folders(self._folder_of(epoch))
        return sorted(int(folder) for folder in folders if folder.isdecimal())

    def _folder_of(self, epoch: int) -> str:
        return self._folder if epoch == _UNLEASED else f"{self._folder}/{lease_folder(epoch)}"

    def _key(self, epoch: int, step: int, name: str = "") -> str:
        return f"{self._folder_of(epoch)}/{step:08d}" + (f"/{name}" if name else "")


def _files(snapshot: Snapshot) -> dict[str, bytes]:
    contents = (
        ("adapter", ".safetensors", save(snapshot.adapter)),
        ("optimizer", ".safetensors", save(snapshot.optimizer)),
        ("state", ".json", snapshot.state.model_dump_json().encode()),
    )
    return {f"{role}-{_digest(data)[:16]}{suffix}": data for role, suffix, data in contents}


def _snapshot(step: int, files: dict[str, bytes]) -> Snapshot:
    try:
        return Snapshot(
            step=step,
            adapter=load(files["adapter"]),
            optimizer=load(files["optimizer"]),
            state=RunState.model_validate_json(files["state"]),
        )
    except (KeyError, ValidationError, SafetensorError) as error:
        raise DataCorrupt(f"a file cannot be read: {type(error).__name__}") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""A run's checkpoints in the object store: save, restore, keep the newest two.

tenants/{tenant}/jobs/{job}/checkpoints/{step:08d}/
    adapter.safetensors  optimizer.safetensors  state.json  manifest.json (last)

Order, dropout and schedule are functions of seed and step, so the weights, the optimizer's moments
and the figures of `RunState` are all there is to keep.
"""

from __future__ import annotations

import asyncio
import hashlib

import structlog
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from tailorbird.errors import DataCorrupt, NotFound
from tailorbird.names import JobName
from tailorbird.object_store import ObjectStore, delete_folder
from trainer_svc.checkpoints import CHECKPOINT_MANIFEST, checkpoint_prefix, checkpoints_prefix
from trainer_svc.engine.step.run import Run, RunState

_ADAPTER, _OPTIMIZER, _STATE = "adapter.safetensors", "optimizer.safetensors", "state.json"
_KEPT = 2

log = structlog.get_logger(__name__)


class CheckpointManifest(BaseModel):
    """What makes a checkpoint whole: SHA-256 of each file, and the specification it belongs to."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    spec_sha256: str
    files: dict[str, str]


class Checkpoints:
    """The checkpoints of one job under one specification."""

    def __init__(
        self, store: ObjectStore, runner: asyncio.Runner, job: JobName, spec_sha256: str
    ) -> None:
        self._store = store
        self._runner = runner
        self._job = job
        self._spec_sha256 = spec_sha256

    def save(self, run: Run) -> None:
        """Write the run's checkpoint, then delete all but the newest two; StoreUnavailable."""
        self._runner.run(self._save(run.state.step, _files(run)))

    def restore(self, run: Run) -> bool:
        """Bring `run` to the newest checkpoint that is whole; False if there is none.

        Whatever is not whole, or of another specification, is deleted. Raises StoreUnavailable.
        """
        for step in reversed(self._runner.run(self._steps())):
            try:
                _load(run, self._runner.run(self._read(step)))
            except (DataCorrupt, NotFound) as error:
                log.warning("checkpoint unusable", job=str(self._job), step=step, error=str(error))
                self._runner.run(self._delete(step))
            else:
                return True
        return False

    async def _save(self, step: int, files: dict[str, bytes]) -> None:
        prefix = checkpoint_prefix(self._job, step)
        await self._store.delete(f"{prefix}/{CHECKPOINT_MANIFEST}")
        await asyncio.gather(
            *(self._store.put(f"{prefix}/{name}", data) for name, data in files.items())
        )
        manifest = CheckpointManifest(
            spec_sha256=self._spec_sha256,
            files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        )
        await self._store.put(
            f"{prefix}/{CHECKPOINT_MANIFEST}", manifest.model_dump_json().encode()
        )
        for old in (await self._steps())[:-_KEPT]:
            await self._delete(old)

    async def _read(self, step: int) -> dict[str, bytes]:
        prefix = checkpoint_prefix(self._job, step)
        try:
            manifest = CheckpointManifest.model_validate_json(
                await self._store.get(f"{prefix}/{CHECKPOINT_MANIFEST}")
            )
        except ValidationError as error:
            raise DataCorrupt("the manifest is none") from error
        if manifest.spec_sha256 != self._spec_sha256:
            raise DataCorrupt("it belongs to another specification")
        files = {name: await self._store.get(f"{prefix}/{name}") for name in manifest.files}
        for name, digest in manifest.files.items():
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise DataCorrupt(f"{name} is not what was written")
        return files

    async def _steps(self) -> list[int]:
        folders = await self._store.folders(checkpoints_prefix(self._job))
        return sorted(int(folder) for folder in folders if folder.isdecimal())

    async def _delete(self, step: int) -> None:
        prefix = checkpoint_prefix(self._job, step)
        await delete_folder(self._store, prefix, first=CHECKPOINT_MANIFEST)


def _files(run: Run) -> dict[str, bytes]:
    moments = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, parameter in run.adapter.parameters.items()
        for key, value in run.optimizer.state.get(parameter, {}).items()
    }
    return {
        _ADAPTER: save(run.adapter.tensors(torch.float32)),
        _OPTIMIZER: save(moments),
        _STATE: run.state.model_dump_json().encode(),
    }


@torch.no_grad()
def _load(run: Run, files: dict[str, bytes]) -> None:
    """Put a checkpoint's files into the run; DataCorrupt, and no change, if they do not fit."""
    try:
        state = RunState.model_validate_json(files[_STATE])
        weights, moments = load(files[_ADAPTER]), load(files[_OPTIMIZER])
    except (KeyError, ValidationError, SafetensorError) as error:
        raise DataCorrupt(f"a file cannot be read: {type(error).__name__}") from error
    parameters = run.adapter.parameters
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if {name: tensor.shape for name, tensor in weights.items()} != shapes:
        raise DataCorrupt("its tensors are not this adapter's")
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
        run.optimizer.state[parameter] = {
            key.removeprefix(f"{name}."): value if key.endswith(".step") else value.to(parameter)
            for key, value in moments.items()
            if key.startswith(f"{name}.")
        }
    run.state = state

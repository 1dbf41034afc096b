"""The version that a job trains on from: its weights, fetched and checked, and their first use.

What the service has seen of it was long ago: here everything is looked at again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from tailorbird.errors import DataCorrupt, FailedPrecondition, NotFound
from tailorbird.manifest import ADAPTER_WEIGHTS, AdapterManifest
from tailorbird.names import VersionName
from tailorbird.object_store import ObjectStore
from tailorbird.registry import AdapterRegistry
from trainer_svc.engine.elsewhere import in_thread
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run
from trainer_svc.engine.training.evaluation import evaluation
from trainer_svc.engine.training.group import NON_FINITE
from trainer_svc.jobs.events import Evaluation, EventPayload
from trainer_svc.protocol import Assignment

Shapes = Mapping[str, tuple[int, ...]]

_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
_MAX_NUMBER_BYTES = 4
_HEADER_SLACK = 64 * 2**10
_ENTRY_BYTES = 256
"""More than what a tensor takes in a safetensors header beside its name."""


async def check_manifest(store: ObjectStore, assignment: Assignment, shapes: Shapes) -> None:
    """Raise what `fetch_weights` would for the version's manifest alone."""
    version = VersionName.parse(assignment.from_version)
    _checked_size(await AdapterRegistry(store).manifest(version), assignment, shapes)


async def fetch_weights(
    store: ObjectStore, assignment: Assignment, shapes: Shapes
) -> dict[str, torch.Tensor]:
    """Return the weights of the version that the job trains on from, as they were published.

    `shapes` are the job's own parameters': no other are taken, and no more bytes than they can
    need. Raises NotFound (VERSION_DELETED, VERSION_NOT_FOUND), FailedPrecondition
    (TENSOR_MISMATCH), DataCorrupt (MANIFEST_INVALID, MANIFEST_CHANGED, DIGEST_MISMATCH,
    TENSOR_MISMATCH, NON_FINITE) and StoreUnavailable.
    """
    version = VersionName.parse(assignment.from_version)
    manifest = await AdapterRegistry(store).manifest(version)
    size = _checked_size(manifest, assignment, shapes)
    data = await _read(store, version, size)
    sha256 = manifest.files[ADAPTER_WEIGHTS].sha256
    return await in_thread(lambda _: _loaded(version, data, sha256, shapes))


def begin_with(
    bank: AdapterBank,
    run: Run,
    weights: Mapping[str, torch.Tensor],
    micro_tokens: int,
    report: Callable[[EventPayload], None],
) -> Generator[None, None, None]:
    """Judge the base on the run's validation data, then give the run its first weights, in pieces.

    An adapter that is fresh changes nothing: until it gets weights, its loss is the base's own.
    Raises FailedPrecondition (NON_FINITE) if that is not finite.
    """
    loss: float | None = None
    if run.validation:
        loss = yield from evaluation(bank, run.job, run.validation, micro_tokens)
        if not math.isfinite(loss):
            raise FailedPrecondition(f"the base's validation loss is {loss}", reason=NON_FINITE)
        report(Evaluation(step=0, validation_loss=loss, perplexity=math.exp(min(loss, 700.0))))
    run.begin_with(weights, loss)


def _checked_size(manifest: AdapterManifest, assignment: Assignment, shapes: Shapes) -> int:
    """Return the size of the weights' file of a manifest that fits the job."""
    version, lora = manifest.version, assignment.lora
    found = (manifest.base_model_digest, manifest.rank, manifest.alpha, manifest.use_rslora)
    if found != (assignment.base_model_digest, lora.rank, lora.alpha, lora.use_rslora):
        raise DataCorrupt(
            f"the manifest of {version} is not the one that the job was made for: base "
            f"{manifest.base_model_digest}, rank {manifest.rank}, alpha {manifest.alpha:.15g}",
            reason="MANIFEST_CHANGED",
        )
    _check_shapes(f"the manifest of {version}", manifest.tensors, shapes)
    entry = manifest.files.get(ADAPTER_WEIGHTS)
    most = _HEADER_SLACK + sum(
        len(name) + _ENTRY_BYTES + _MAX_NUMBER_BYTES * math.prod(shape)
        for name, shape in shapes.items()
    )
    if entry is None or entry.size > most:
        has = "lacks it" if entry is None else f"says {entry.size} bytes; at most {most} are read"
        raise DataCorrupt(
            f"{ADAPTER_WEIGHTS} of {version}: its manifest {has}", reason="MANIFEST_INVALID"
        )
    return entry.size


async def _read(store: ObjectStore, version: VersionName, size: int) -> bytes:
    """Return the weights' file, whose first `size` bytes are all that is read of it."""
    try:
        return await store.get(f"{version}/{ADAPTER_WEIGHTS}", size)
    except NotFound as error:
        raise _changed(version, "is missing") from error
    except DataCorrupt as error:
        raise _changed(version, f"has more than the {size} bytes of its manifest") from error


def _loaded(
    version: VersionName, data: bytes, sha256: str, shapes: Shapes
) -> dict[str, torch.Tensor]:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _changed(version, "has another SHA-256 than its manifest says")
    try:
        weights: dict[str, torch.Tensor] = load(data)
    except SafetensorError as error:
        raise DataCorrupt(
            f"{ADAPTER_WEIGHTS} of {version} is no safetensors file", reason="TENSOR_MISMATCH"
        ) from error
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    _check_shapes(f"{ADAPTER_WEIGHTS} of {version}", found, shapes)
    for name, tensor in weights.items():
        if tensor.dtype not in _DTYPES:
            raise DataCorrupt(
                f"{name} of {version} is of {tensor.dtype}, which adapters are not",
                reason="TENSOR_MISMATCH",
            )
        if not bool(tensor.isfinite().all()):
            raise DataCorrupt(f"{name} of {version} is not finite", reason=NON_FINITE)
    return weights


def _check_shapes(whose: str, found: Shapes, needed: Shapes) -> None:
    for name in sorted({*found, *needed}):
        if found.get(name) != needed.get(name):
            raise FailedPrecondition(
                f"{whose} has {_shape(found, name)}; the job's adapter has {_shape(needed, name)}",
                reason="TENSOR_MISMATCH",
                tensor=name,
            )


def _shape(shapes: Shapes, name: str) -> str:
    return f"{name} of shape {list(shapes[name])}" if name in shapes else f"no {name}"


def _changed(version: VersionName, how: str) -> DataCorrupt:
    return DataCorrupt(
        f"{ADAPTER_WEIGHTS} of {version} {how}", reason="DIGEST_MISMATCH", file=ADAPTER_WEIGHTS
    )

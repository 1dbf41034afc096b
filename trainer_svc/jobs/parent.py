"""The version that a job trains on from: whether it may be, and the LoRA that it takes from it."""

from __future__ import annotations

from collections.abc import Sequence

from tailorbird.errors import DataCorrupt, InvalidArgument, NotFound
from tailorbird.manifest import ADAPTER_WEIGHTS, AdapterManifest
from tailorbird.names import TenantName, VersionName
from tailorbird.registry import AdapterRegistry
from trainer_svc.jobs.model import AskedLora, LoraSpec

_FIELD = "job.spec.from_version"
_MAX_ALPHA = 1024


async def read_parent(
    registry: AdapterRegistry, tenant: TenantName, version: VersionName
) -> AdapterManifest:
    """Return the manifest of a published version of the tenant whose files are all there.

    Of the files only the sizes are looked at: one listing. Raises NotFound (VERSION_NOT_FOUND, for
    another tenant's version as for one that never was; VERSION_DELETED), DataCorrupt
    (MANIFEST_INVALID, DIGEST_MISMATCH) and StoreUnavailable.
    """
    if version.tenant != tenant.tenant:
        raise NotFound(version, reason="VERSION_NOT_FOUND")
    manifest = await registry.manifest(version)
    if ADAPTER_WEIGHTS not in manifest.files:
        raise DataCorrupt(
            f"the manifest of {version} lacks {ADAPTER_WEIGHTS}", reason="MANIFEST_INVALID"
        )
    prefix = f"{version}/"
    stored = {
        info.key.removeprefix(prefix): info.size
        async for info in registry.store.objects(str(version))
    }
    for name, entry in manifest.files.items():
        if stored.get(name) != entry.size:
            raise DataCorrupt(
                f"{name} of {version} has {stored.get(name, 'no')} bytes; its manifest says "
                f"{entry.size}",
                reason="DIGEST_MISMATCH",
                file=name,
            )
    return manifest


def check_base(manifest: AdapterManifest, digest: str) -> None:
    """Raise InvalidArgument (BASE_MISMATCH) unless the version is of the base of this digest."""
    if manifest.base_model_digest != digest:
        raise InvalidArgument(
            _FIELD,
            f"{manifest.version} is of the base {manifest.base_model} "
            f"({manifest.base_model_digest}); the job's has {digest}",
            reason="BASE_MISMATCH",
            version_base_digest=manifest.base_model_digest,
            base_digest=digest,
        )


def lora_of(manifest: AdapterManifest, asked: AskedLora, ranks: Sequence[int]) -> LoraSpec:
    """Return the version's shape with the job's own dropout.

    Raises InvalidArgument: LORA_MISMATCH names the first field that asks for another value, and
    VERSION_NOT_TRAINABLE says what of an imported version a job cannot have.
    """
    version = manifest.version
    if manifest.rank not in ranks:
        raise _not_trainable(f"{version} has rank {manifest.rank}; jobs train {list(ranks)}")
    if not 0 < manifest.alpha <= _MAX_ALPHA:
        raise _not_trainable(
            f"{version} has alpha {manifest.alpha:.15g}; jobs train with one above 0 and at most "
            f"{_MAX_ALPHA}"
        )
    shape = LoraSpec(
        rank=manifest.rank,
        alpha=manifest.alpha,
        target_modules=tuple(sorted(set(manifest.target_modules))),
        use_rslora=manifest.use_rslora,
        dropout=asked.dropout,
    )
    for field in ("rank", "alpha", "target_modules", "use_rslora"):
        value, of_version = getattr(asked, field), getattr(shape, field)
        if value not in (AskedLora.model_fields[field].default, of_version):
            raise InvalidArgument(
                f"job.spec.lora.{field}",
                f"{_said(value)} is asked for, and {version} has {_said(of_version)}; leave it out "
                "to train on from that version",
                reason="LORA_MISMATCH",
                value=_said(value),
                version_value=_said(of_version),
            )
    return shape


def _not_trainable(why: str) -> InvalidArgument:
    return InvalidArgument(_FIELD, why, reason="VERSION_NOT_TRAINABLE")


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value).lower()

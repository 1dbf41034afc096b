"""Small jobs and manifests to put into stores."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tailorbird.base_model import BaseModelFiles
from tailorbird.manifest import (
    ADAPTER_WEIGHTS,
    MANIFEST,
    AdapterManifest,
    EvaluationSummary,
    FileEntry,
    Lineage,
)
from tailorbird.names import JobName
from tailorbird.object_store import ObjectStore
from tailorbird.profile import ServingProfile
from trainer_svc.bases import BaseModels
from trainer_svc.jobs.model import Job, JobSpec, JobState, PromotionPolicy
from trainer_svc.jobs.sweep import AskedSweep, SearchSpace, SweepResults, SweepSpec, TrialSpec


def make_base(name: str = "base", weight_bytes: int = 8) -> BaseModelFiles:
    return BaseModelFiles(
        name=name,
        path=Path("/nowhere"),
        digest=f"sha256:{name}",
        chat_template_digest="sha256:template",
        max_sequence_length=512,
        hidden_size=64,
        weight_bytes=weight_bytes,
    )


def make_bases(*names: str, **weight_bytes: int) -> BaseModels:
    """Bases of 8 bytes, or of as many as is said."""
    names = names or ("base",)
    return BaseModels(tuple(make_base(name, weight_bytes.get(name, 8)) for name in names))


def make_job(
    job: str = "one",
    tenant: str = "acme",
    adapter: str = "voice",
    policy: PromotionPolicy = PromotionPolicy.ALWAYS,
    base: str = "base",
) -> Job:
    spec = JobSpec(
        base_model=base,
        base_model_digest=f"sha256:{base}",
        training_dataset=f"tenants/{tenant}/datasets/chats",
        adapter=f"tenants/{tenant}/adapters/{adapter}",
        promotion_policy=policy,
    )
    return Job(
        name=JobName(tenant, job), spec=spec, state=JobState.QUEUED, create_time=datetime.now(UTC)
    )


def make_sweep(sweep: str = "sweep", trials: int = 4) -> Job:
    """A job that carries out a sweep over learning rates."""
    job = make_job(sweep)
    rates = tuple(10.0**-number for number in range(1, trials + 1))
    tried = SweepSpec(
        asked=AskedSweep(space=SearchSpace(learning_rates=rates)),
        trials=tuple(TrialSpec(rank=16, alpha=32, learning_rate=rate) for rate in rates),
    )
    spec = job.spec.model_copy(update={"sweep": tried})
    return job.model_copy(update={"spec": spec, "sweep": SweepResults.begun(tried)})


def make_manifest(version: str) -> AdapterManifest:
    sha = "0" * 64
    return AdapterManifest(
        version=version,
        create_time=datetime.now(UTC),
        base_model="base",
        base_model_digest=f"sha256:{sha}",
        chat_template_digest=f"sha256:{sha}",
        rank=8,
        alpha=16,
        use_rslora=False,
        target_modules=("q_proj",),
        tensors={"w": (8, 16)},
        files={"adapter_config.json": FileEntry(size=1, sha256=sha)},
        lineage=Lineage(
            job="tenants/acme/jobs/one",
            training_dataset="tenants/acme/datasets/chats",
            training_dataset_sha256=sha,
            spec_sha256=sha,
            parent_version="",
            code_version="0",
        ),
        evaluation=EvaluationSummary(
            steps=1, training_loss=1.0, validation_loss=None, base_validation_loss=None
        ),
    )


async def put_version(
    store: ObjectStore, name: str, weights: bytes = b"weights", **changes: Any
) -> AdapterManifest:
    """Publish a version with this file of weights; return its manifest."""
    files = {
        ADAPTER_WEIGHTS: FileEntry(size=len(weights), sha256=hashlib.sha256(weights).hexdigest())
    }
    manifest = make_manifest(name).model_copy(update={"files": files, **changes})
    await store.put(f"{name}/{ADAPTER_WEIGHTS}", weights)
    await store.put(f"{name}/{MANIFEST}", manifest.to_json())
    return manifest


def make_profile(base: BaseModelFiles, profile: str = "default", rank: int = 16) -> ServingProfile:
    """Return the profile of serving that has `base`, up to a rank."""
    return ServingProfile(
        profile=profile,
        base_model=base.name,
        base_model_digest=base.digest,
        chat_template_digest=base.chat_template_digest,
        max_model_len=512,
        max_lora_rank=rank,
        adapter_slots=8,
        dtype="bfloat16",
    )

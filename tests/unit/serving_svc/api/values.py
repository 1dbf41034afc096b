"""Values that the edge's tests show."""

from __future__ import annotations

from datetime import UTC, datetime

from tailorbird.manifest import AdapterManifest, EvaluationSummary, FileEntry, Lineage

MANIFEST = AdapterManifest(
    version="tenants/acme/adapters/support/versions/20260101T000000-job-1",
    create_time=datetime(2026, 1, 1, tzinfo=UTC),
    base_model="base",
    base_model_digest=f"sha256:{'a' * 64}",
    chat_template_digest=f"sha256:{'a' * 64}",
    rank=8,
    alpha=16,
    use_rslora=False,
    target_modules=("q_proj",),
    tensors={},
    files={"adapter_config.json": FileEntry(size=7, sha256="0" * 64)},
    lineage=Lineage(
        job="tenants/acme/jobs/job",
        training_dataset="tenants/acme/datasets/data",
        training_dataset_sha256="0" * 64,
        spec_sha256="1" * 64,
        parent_version="",
        code_version="test",
    ),
    evaluation=EvaluationSummary(
        steps=1, training_loss=1, validation_loss=0.5, base_validation_loss=None
    ),
)

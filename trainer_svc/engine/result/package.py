"""A trained adapter's files: PEFT's own format, the certificate, what is told of it; their upload.

Every tensor is in the base checkpoint's own precision, under the names PEFT and vLLM load.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import peft
from safetensors.torch import save

from tailorbird import __version__
from tailorbird.errors import Conflict
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CARD,
    PROBES,
    REPORT,
    REPORT_PAGE,
    AdapterManifest,
    Decision,
    EvaluationSummary,
    Lineage,
    file_entry,
)
from tailorbird.names import VersionName
from tailorbird.object_store import ObjectExists, ObjectStore
from trainer_svc.engine.result.judging import Judged
from trainer_svc.engine.step.run import Run
from trainer_svc.jobs.events import DataReport
from trainer_svc.judgement.model import Judgement, SafetyFinding
from trainer_svc.protocol import Assignment, WorkerSettings
from trainer_svc.report.card import model_card
from trainer_svc.report.model import Lengths, Report
from trainer_svc.report.page import report_page

FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES, MODEL_CARD, REPORT, REPORT_PAGE)


@dataclass(frozen=True)
class Result:
    """A trained, judged and perhaps examined adapter, and what it was made of."""

    run: Run
    judged: Judged
    training_data: DataReport
    validation_data: DataReport | None
    judgement: Judgement | None
    decision: Decision | None
    screened: int | None = None
    """Training records that were held against the operator's safety lists; None: there are none."""
    training_safety: Sequence[SafetyFinding] = ()

    @property
    def evaluation(self) -> EvaluationSummary:
        """What the manifest says of it."""
        return self.judged.evaluation.model_copy(update={"decision": self.decision})


@dataclass(frozen=True)
class Package:
    """The files of `FILES` in `folder`, and what the manifest says of them."""

    folder: Path
    target_modules: tuple[str, ...]
    tensors: dict[str, tuple[int, ...]]
    evaluation: EvaluationSummary
    lineage: Lineage


def build_package(
    folder: Path, result: Result, assignment: Assignment, settings: WorkerSettings
) -> Package:
    """Write the files of a trained and judged adapter into `folder`, which is made."""
    folder.mkdir()
    judged = result.judged
    (folder / ADAPTER_WEIGHTS).write_bytes(save(judged.tensors, metadata={"format": "pt"}))
    config = {
        **judged.config.to_dict(),
        "base_model_name_or_path": settings.base_model_name,
        "inference_mode": True,
    }
    (folder / ADAPTER_CONFIG).write_text(
        json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n", encoding="utf-8"
    )
    (folder / PROBES).write_bytes(judged.probes.to_json())
    package = Package(
        folder=folder,
        target_modules=tuple(sorted(judged.config.target_modules)),
        tensors={name: tuple(tensor.shape) for name, tensor in judged.tensors.items()},
        evaluation=result.evaluation,
        lineage=_lineage(result, assignment),
    )
    report = _report(result, package, assignment, settings)
    (folder / REPORT).write_bytes(report.to_json())
    (folder / REPORT_PAGE).write_text(report_page(report), "utf-8")
    (folder / MODEL_CARD).write_text(model_card(report, peft.__version__), "utf-8")
    return package


def describe(
    package: Package, version: VersionName, assignment: Assignment, settings: WorkerSettings
) -> AdapterManifest:
    """Return the manifest of `version`, made of the package."""
    lora = assignment.lora
    return AdapterManifest(
        version=str(version),
        create_time=datetime.now(UTC),
        base_model=settings.base_model_name,
        base_model_digest=settings.base_model_digest,
        chat_template_digest=settings.chat_template_digest,
        rank=lora.rank,
        alpha=lora.alpha,
        use_rslora=lora.use_rslora,
        target_modules=package.target_modules,
        tensors=package.tensors,
        files={name: file_entry(package.folder / name) for name in FILES},
        lineage=package.lineage,
        evaluation=package.evaluation,
    )


def _lineage(result: Result, assignment: Assignment) -> Lineage:
    validation, held = assignment.validation, result.validation_data
    return Lineage(
        job=assignment.lease.job,
        training_dataset=assignment.training.name,
        training_dataset_sha256=assignment.training.sha256,
        spec_sha256=assignment.spec_sha256,
        parent_version=assignment.parent_version,
        code_version=__version__,
        from_version=assignment.from_version,
        validation_dataset="" if validation is None else validation.name,
        validation_dataset_sha256="" if validation is None else validation.sha256,
        held_out_records=0 if validation is not None or held is None else held.records,
    )


def _report(
    result: Result, package: Package, assignment: Assignment, settings: WorkerSettings
) -> Report:
    state = result.run.state
    return Report(
        create_time=datetime.now(UTC),
        adapter=assignment.adapter,
        base_model=settings.base_model_name,
        base_model_digest=settings.base_model_digest,
        target_modules=package.target_modules,
        trainable_parameters=sum(math.prod(shape) for shape in package.tensors.values()),
        tokens=state.tokens,
        lora=assignment.lora,
        hyperparameters=result.run.hyperparameters,
        lineage=package.lineage,
        training_data=result.training_data,
        validation_data=result.validation_data,
        training_personal_data=assignment.training.personal_data,
        validation_personal_data=assignment.validation and assignment.validation.personal_data,
        data_warnings=assignment.data_warnings,
        lengths=Lengths.of(result.run.plan.lengths),
        training_curve=state.curve.training,
        validation_curve=state.curve.validation,
        throughput=state.curve.throughput,
        best_step=state.best_step,
        evaluation=result.evaluation,
        judgement=result.judgement,
        promoted_always=assignment.promoted_always,
        training_screened=result.screened,
        training_safety=tuple(result.training_safety),
    )


async def upload(store: ObjectStore, package: Package, version: VersionName) -> None:
    """Put every file under `version`, create-only; StoreUnavailable if the store is down.

    A file that is there already and the same is left; Conflict if it differs.
    """
    for name in FILES:
        data = await asyncio.to_thread((package.folder / name).read_bytes)
        key = f"{version}/{name}"
        try:
            await store.create(key, data)
        except ObjectExists:
            if await store.get(key) != data:
                raise Conflict(f"{key} was written by somebody else", key=key) from None

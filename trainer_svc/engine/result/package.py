"""A trained adapter's files: PEFT's own format, the certificate, the model card; and their upload.

Every tensor is in the base checkpoint's own precision, under the names PEFT and vLLM load.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import save

from tailorbird import __version__
from tailorbird.errors import Conflict
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CARD,
    PROBES,
    REPORT,
    AdapterManifest,
    Decision,
    EvaluationSummary,
    Lineage,
    file_entry,
)
from tailorbird.names import VersionName
from tailorbird.object_store import ObjectExists, ObjectStore
from trainer_svc.engine.result.judging import Judged
from trainer_svc.engine.result.report import Report
from trainer_svc.engine.step.run import Run
from trainer_svc.jobs.model import DataReport, Hyperparameters
from trainer_svc.judgement.model import Judgement
from trainer_svc.protocol import Assignment, WorkerSettings

FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES, MODEL_CARD, REPORT)


@dataclass(frozen=True)
class Result:
    """A trained, judged and perhaps examined adapter, and what it was made of."""

    run: Run
    judged: Judged
    training_data: DataReport
    validation_data: DataReport | None
    judgement: Judgement | None
    decision: Decision | None

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
    )
    card = _model_card(package, result.run.hyperparameters, assignment, settings)
    (folder / MODEL_CARD).write_text(card, "utf-8")
    (folder / REPORT).write_bytes(_report(result, assignment, settings).to_json())
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
        lineage=_lineage(assignment),
        evaluation=package.evaluation,
    )


def _lineage(assignment: Assignment) -> Lineage:
    return Lineage(
        job=assignment.lease.job,
        training_dataset=assignment.training.name,
        training_dataset_sha256=assignment.training.sha256,
        spec_sha256=assignment.spec_sha256,
        parent_version=assignment.parent_version,
        code_version=__version__,
        from_version=assignment.from_version,
    )


def _report(result: Result, assignment: Assignment, settings: WorkerSettings) -> Report:
    state = result.run.state
    return Report(
        create_time=datetime.now(UTC),
        base_model=settings.base_model_name,
        lora=assignment.lora,
        hyperparameters=result.run.hyperparameters,
        lineage=_lineage(assignment),
        training_data=result.training_data,
        validation_data=result.validation_data,
        training_curve=state.curve.training,
        validation_curve=state.curve.validation,
        best_step=state.best_step,
        evaluation=result.evaluation,
        judgement=result.judgement,
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


def _model_card(
    package: Package, hyper: Hyperparameters, assignment: Assignment, settings: WorkerSettings
) -> str:
    lora, score = assignment.lora, package.evaluation
    rows = {
        "Base model": f"{settings.base_model_name} (`{settings.base_model_digest}`)",
        "Job": f"`{assignment.lease.job}`",
        "Training data": f"`{assignment.training.name}` (sha256 `{assignment.training.sha256}`)",
        "Rank, alpha": f"{lora.rank}, {lora.alpha:g}" + (" (rsLoRA)" if lora.use_rslora else ""),
        "Layers": ", ".join(package.target_modules),
        "Steps": f"{score.steps} ({hyper.epochs} epochs, {hyper.batch_tokens} tokens a step)",
        "Learning rate": f"{hyper.learning_rate:.3g}",
        "Seed": str(hyper.seed),
        "Training loss": f"{score.training_loss:.4f} nats per token",
        "Validation loss": _loss(score.validation_loss),
        "Validation loss of the base": _loss(score.base_validation_loss),
    }
    if assignment.from_version:
        rows["Trained on from"] = f"`{assignment.from_version}`"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"---\nbase_model: {json.dumps(settings.base_model_name)}\nlibrary_name: peft\n"
        f"tags: [lora, tailorbird]\n---\n\n# {assignment.adapter}\n\n"
        f"A LoRA adapter, made by Tailorbird {__version__}. "
        "`probes.json` holds what a forward pass with it must give.\n\n"
        f"| | |\n|---|---|\n{table}\n"
    )


def _loss(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f} nats per token"

"""A worker process, its socket, a real tiny Llama and a real file store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tailorbird.manifest import (
    ADAPTER_WEIGHTS,
    MANIFEST,
    MODEL_CARD,
    PROBES,
    Probes,
    file_entry,
)
from trainer_svc.jobs.events import (
    CheckpointSaved,
    Evaluation,
    JobWarning,
    Judged,
    Prepared,
    Resumed,
    StepProgress,
)
from trainer_svc.jobs.model import Hyperparameters, LoraSpec
from trainer_svc.protocol import (
    Alive,
    Assignment,
    Cancel,
    Cancelled,
    Evaluating,
    Failed,
    LeaseKey,
    Ready,
    Reported,
    Start,
    Suspend,
    Suspended,
    Trained,
    Unusable,
    Upload,
    Uploaded,
)

from ..unit.trainer_svc.engine.tiny import assignment, chats, dataset_ref, jsonl, later, make_base
from .engine_process import WorkerProcess

DATA = jsonl(chats(20))
ADAPTER = Path("tenants/acme/adapters/support/versions")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny", torch.bfloat16)


@pytest.fixture(scope="module")
def store(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    ref = dataset_ref(DATA)
    (folder / ref.key).parent.mkdir(parents=True)
    (folder / ref.key).write_bytes(DATA)
    return folder


@pytest.fixture(scope="module")
def worker(
    base: Path, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    with WorkerProcess(base, store, tmp_path_factory.mktemp("scratch")) as process:
        yield process.ready()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_worker_says_what_it_has_chosen(
    base: Path, store: Path, tmp_path: Path, checkpointing: bool
) -> None:
    with WorkerProcess(base, store, tmp_path, gradient_checkpointing=checkpointing) as worker:
        ready = worker.next()
        assert isinstance(ready, Ready)
        assert (ready.device, ready.dtype, ready.attention) == ("cpu", "bfloat16", "segments")
        assert ready.compute_dtype in {"bfloat16", "float32"}
        assert ready.optimizer == "adamw_fused"
        assert ready.gradient_checkpointing is checkpointing


def test_a_worker_that_somebody_counts_on_says_that_it_lives(
    base: Path, store: Path, tmp_path: Path
) -> None:
    with WorkerProcess(base, store, tmp_path, silence_seconds=1.0) as worker:
        assert [type(worker.next()) for _ in range(4)] == [Ready, Alive, Alive, Alive]


def upload(worker: WorkerProcess, job: Assignment, version: str) -> Uploaded:
    worker.send(Upload(lease=job.lease, version=version))
    return worker.until(Uploaded)[1]


def test_a_worker_without_what_versions_are_held_against_does_not_start(
    base: Path, store: Path, tmp_path: Path
) -> None:
    with WorkerProcess(base, store, tmp_path, general_data=str(tmp_path / "gone")) as worker:
        said = worker.next()
    assert isinstance(said, Unusable)
    assert "gone cannot be read" in said.error.message


def test_what_an_adapter_leaves_of_the_base_is_told(
    base: Path, store: Path, tmp_path: Path
) -> None:
    general = tmp_path / "general.jsonl"
    general.write_bytes(jsonl([{"text": "the order is on its way to the customer"}, *chats(3)]))
    with WorkerProcess(base, store, tmp_path / "scratch", general_data=str(general)) as worker:
        job = assignment(DATA, "kept")
        worker.send(Start(assignment=job))
        _, judged = worker.until(Judged)
    assert judged.judgement.retention is not None
    assert judged.judgement.retention.texts == 1


def test_a_job_from_start_to_uploaded(worker: WorkerProcess, base: Path, store: Path) -> None:
    job = assignment(DATA, "whole")
    worker.send(Start(assignment=job))
    before, prepared = worker.until(Prepared)
    assert before == []
    assert (prepared.training.kept, prepared.validation and prepared.validation.kept) == (16, 4)
    assert None not in prepared.hyperparameters.model_dump().values()
    assert "learning_rate" in prepared.reasons
    events, _ = worker.until(Evaluating)
    assert any(isinstance(e, JobWarning) and e.reason == "FEW_RECORDS" for e in events)
    steps = [event for event in events if isinstance(event, StepProgress)]
    assert [step.step for step in steps] == list(range(1, prepared.total_steps + 1))
    assert steps[-1].epoch == 2.0
    final, _ = worker.until(Trained)
    first = next(event for event in events if isinstance(event, Evaluation))
    (last,) = [event for event in final if isinstance(event, Evaluation)]
    assert first.step == 0
    assert last.validation_loss < first.validation_loss

    version = "20261120T153000-whole-1"
    worker.send(Upload(lease=job.lease, version=version))
    rest, uploaded = worker.until(Uploaded)
    saved = [e.step for e in [*events, *final, *rest] if isinstance(e, CheckpointSaved)]
    assert saved[-1] == prepared.total_steps
    manifest = uploaded.manifest
    folder = store / ADAPTER / version
    assert {path.name for path in folder.iterdir()} == set(manifest.files)
    assert all(file_entry(folder / name) == entry for name, entry in manifest.files.items())
    assert manifest.version == f"{job.adapter}/versions/{version}"
    assert manifest.evaluation.validation_loss == last.validation_loss
    assert manifest.evaluation.base_validation_loss == first.validation_loss
    assert manifest.lineage.training_dataset_sha256 == job.training.sha256
    saved = load_file(folder / "adapter_model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == manifest.tensors
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert "tiny-llama" in (folder / MODEL_CARD).read_text()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-llama"
    assert (config["inference_mode"], config["init_lora_weights"]) == (True, True)
    _check_with_plain_peft(base, folder)


def test_a_job_trains_on_from_what_another_published(worker: WorkerProcess, store: Path) -> None:
    first = assignment(DATA, "parent", hyperparameters=Hyperparameters(epochs=6, batch_tokens=64))
    worker.send(Start(assignment=first))
    worker.until(Trained)
    parent = upload(worker, first, "20261120T153000-parent-1").manifest
    (store / parent.version / MANIFEST).write_bytes(parent.to_json())

    job = assignment(
        DATA,
        "child",
        adapter="tenants/acme/adapters/second",
        parent_version=parent.version,
        from_version=parent.version,
    )
    worker.send(Start(assignment=job))
    events, _ = worker.until(Trained)
    child = upload(worker, job, "20261120T153000-child-1").manifest
    base, begun, *later_ones = [event for event in events if isinstance(event, Evaluation)]
    assert [(base.step, base.version), (begun.step, begun.version)] == [
        (0, ""),
        (0, parent.version),
    ]
    assert all(event.step > 0 and not event.version for event in later_ones)
    # The same data is held out: what the parent was judged by, before and after.
    assert base.validation_loss == parent.evaluation.base_validation_loss
    assert begun.validation_loss == pytest.approx(parent.evaluation.validation_loss, rel=1e-3)
    assert child.evaluation.base_validation_loss == base.validation_loss
    assert child.evaluation.validation_loss != parent.evaluation.validation_loss
    assert (child.lineage.from_version, child.lineage.parent_version) == (parent.version,) * 2
    assert child.tensors == parent.tensors
    weights = [load_file(store / m.version / ADAPTER_WEIGHTS) for m in (parent, child)]
    moved = [float((new - old).float().norm() / old.float().norm())
             for old, new in zip(*(each.values() for each in weights), strict=True)]  # fmt: skip
    assert 0 < max(moved) < 0.9, "fresh weights would be much further away"

    changed = store / parent.version / ADAPTER_WEIGHTS
    stored = changed.read_bytes()
    changed.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    worker.send(Start(assignment=later(job)))
    _, resumed = worker.until(Resumed)
    assert resumed.resumed_from_step > 0, "its own checkpoint is all that it needs"
    worker.send(Cancel(lease=later(job).lease))
    worker.until(Cancelled)
    again = job.model_copy(update={"lease": assignment(DATA, "again").lease})
    worker.send(Start(assignment=again))
    _, failed = worker.until(Failed)
    assert (failed.error.reason, failed.retryable) == ("DIGEST_MISMATCH", False)
    wrong = assignment(DATA, "wrong", lora=LoraSpec(rank=16), from_version=parent.version)
    worker.send(Start(assignment=wrong))
    _, failed = worker.until(Failed)
    assert (failed.error.reason, failed.retryable) == ("MANIFEST_CHANGED", False)


def _check_with_plain_peft(base: Path, folder: Path) -> None:
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    tuned = PeftModel.from_pretrained(model, folder)
    probes = Probes.from_json((folder / PROBES).read_bytes())
    assert 1 <= len(probes.sequences) <= 4
    effects = []
    for probe in probes.sequences:
        ids = torch.tensor(probe.token_ids)
        with torch.no_grad():
            found = tuned(input_ids=ids.unsqueeze(0)).logits[0].float().log_softmax(-1)
            with tuned.disable_adapter():
                plain = model(input_ids=ids.unsqueeze(0)).logits[0].float().log_softmax(-1)
        for logprobs, expected in ((found, probe.adapter_logprobs), (plain, probe.base_logprobs)):
            of_tokens = logprobs[:-1].gather(1, ids[1:, None]).squeeze(1)
            torch.testing.assert_close(of_tokens, torch.tensor(expected), atol=0.05, rtol=0)
        effects.append(
            max(
                abs(a - b) for a, b in zip(probe.adapter_logprobs, probe.base_logprobs, strict=True)
            )
        )
    assert max(effects) > 0.3


def test_a_cancelled_job_leaves_nothing_and_the_next_one_works(worker: WorkerProcess) -> None:
    long = assignment(DATA, "cancelled", hyperparameters=Hyperparameters(epochs=500))
    worker.send(Start(assignment=long))
    worker.until(StepProgress)
    worker.send(Cancel(lease=long.lease))
    _, first = worker.until(Cancelled)
    worker.send(Cancel(lease=long.lease))
    job = assignment(DATA, "after-cancelled")
    worker.send(Start(assignment=job))
    reports, trained = worker.until(Trained)
    worker.send(Cancel(lease=job.lease))
    _, second = worker.until(Cancelled)
    assert (first.lease, trained.lease, second.lease) == (long.lease, job.lease, job.lease)
    assert next(report.step for report in reports if isinstance(report, StepProgress)) == 1


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_suspended_job_ends_with_the_same_weights(
    worker: WorkerProcess, store: Path, dropout: float
) -> None:
    name = f"dropout-{dropout > 0}".lower()
    weights = []
    for suspended in (False, True):
        job = assignment(
            DATA,
            f"suspended-{name}-{suspended}".lower(),
            lora=LoraSpec(rank=8, alpha=16.0, dropout=dropout),
        )
        if suspended:
            _suspend_once(worker, job)
            job = later(job)
        worker.send(Start(assignment=job))
        events, _ = worker.until(Trained)
        assert any(isinstance(event, Resumed) for event in events) is suspended
        resumed = [event for event in events if isinstance(event, Resumed)]
        assert all(event.resumed_from_step >= 3 for event in resumed)
        version = f"20261120T153000-{name}-{1 + suspended}"
        upload(worker, job, version)
        weights.append((store / ADAPTER / version / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def _suspend_once(worker: WorkerProcess, job: Assignment) -> None:
    worker.send(Start(assignment=job))
    while worker.until(StepProgress)[1].step < 3:
        pass
    worker.send(Suspend(lease=job.lease))
    worker.until(Suspended)


def test_a_second_lease_without_checkpoint_begins_anew(worker: WorkerProcess) -> None:
    job = assignment(DATA, "second-lease", 2, validation_fraction=None)
    worker.send(Start(assignment=job))
    _, resumed = worker.until(Resumed)
    assert (resumed.resumed_from_step, resumed.lease_epoch) == (0, 2)
    events, _ = worker.until(Trained)
    assert not [event for event in events if isinstance(event, Evaluation)]
    worker.send(Suspend(lease=job.lease))
    worker.until(Suspended)
    worker.send(Start(assignment=job))
    _, resumed = worker.until(Resumed)
    events, _ = worker.until(Trained)
    assert resumed.resumed_from_step > 0
    assert not [event for event in events if isinstance(event, StepProgress)]
    worker.send(Cancel(lease=job.lease))
    worker.until(Cancelled)


def test_failures_are_typed_and_the_worker_lives_on(worker: WorkerProcess) -> None:
    corrupt = assignment(DATA + b"\n", "corrupt")
    missing = assignment(DATA, "missing", validation=dataset_ref(b"", "nowhere"))
    target = assignment(DATA, "target", lora=LoraSpec(target_modules=("c_attn",)))
    short = assignment(DATA, "short", hyperparameters=Hyperparameters(max_sequence_length=16))
    rank = assignment(DATA, "rank", lora=LoraSpec(rank=0))
    other = assignment(DATA, "other", base_model_digest="sha256:other")
    reasons = []
    for job in (corrupt, missing, target, short, other, rank):
        worker.send(Start(assignment=job))
        _, failed = worker.until(Failed)
        assert (failed.lease, failed.retryable) == (job.lease, False)
        reasons.append(failed.error.reason)
    assert reasons == [
        "DATASET_CORRUPT",
        "DATASET_NOT_FOUND",
        "UNKNOWN_TARGET_MODULE",
        "NO_TRAINABLE_RECORDS",
        "BASE_MISMATCH",
        "INTERNAL",
    ]
    assert failed.error.message == (
        f"ZeroDivisionError in the worker; correlation id {failed.error.metadata['correlation_id']}"
    )
    job = assignment(DATA, "after-failures")
    worker.send(Start(assignment=job))
    worker.until(Trained)
    worker.send(Cancel(lease=job.lease))
    worker.until(Cancelled)


def test_a_store_that_fails_at_the_upload_is_worth_another_try(
    worker: WorkerProcess, store: Path
) -> None:
    job = assignment(DATA, "upload")
    worker.send(Start(assignment=job))
    worker.until(Trained)
    version = "20261120T153000-upload-{}"
    (store / ADAPTER / version.format(1)).write_text("a file where a folder should be")
    worker.send(Upload(lease=job.lease, version=version.format(1)))
    _, failed = worker.until(Failed)
    assert (failed.error.reason, failed.retryable) == ("STORE_UNAVAILABLE", True)
    job = later(job)
    worker.send(Start(assignment=job))
    events, _ = worker.until(Trained)
    assert not [event for event in events if isinstance(event, StepProgress)]
    upload(worker, job, version.format(2))


def test_what_belongs_to_another_lease_of_the_job_is_dropped(worker: WorkerProcess) -> None:
    job = later(assignment(DATA, "other-lease"))
    worker.send(Start(assignment=job))
    worker.until(StepProgress)
    for lease in (job.lease.model_copy(update={"epoch": 1}), assignment(DATA, "nobody").lease):
        worker.send(Cancel(lease=lease))
        worker.send(Upload(lease=lease, version="20261120T153000-other-lease-1"))
    worker.until(Trained)
    worker.send(Cancel(lease=job.lease))
    _, cancelled = worker.until(Cancelled)
    assert cancelled.lease == job.lease


def test_jobs_join_and_leave_while_others_run(
    store: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In float32, where what one job computes differs by the order of its sums alone."""
    folder = tmp_path_factory.mktemp("group")
    settings = Hyperparameters(epochs=25, batch_tokens=64, learning_rate=1e-3)
    first = assignment(DATA, "group-a", hyperparameters=Hyperparameters(epochs=10_000))

    def job(way: str, name: str) -> Assignment:
        lora = LoraSpec(rank={"b": 8, "c": 4}[name], alpha=16.0)
        return assignment(DATA, f"{way}-{name}", hyperparameters=settings, lora=lora)

    with WorkerProcess(make_base(folder / "tiny"), store, folder / "scratch") as worker:
        worker.ready()
        alone = {name: _weights(worker, store, [job("alone", name)], "1")[0] for name in "bc"}
        worker.send(Start(assignment=first))
        worker.until(StepProgress)
        second, third = job("group", "b"), job("group", "c")
        worker.send(Start(assignment=second))
        _until_all_step(worker, [first, second])
        worker.send(Cancel(lease=first.lease))
        worker.send(Start(assignment=third))
        _, cancelled = worker.until(Cancelled)
        assert cancelled.lease == first.lease
        together = _weights(worker, store, [second, third], "2", started=True)
    for name, weights in zip("bc", together, strict=True):
        assert weights.keys() == alone[name].keys()
        for tensor, found in weights.items():
            difference = float((found - alone[name][tensor]).norm() / found.norm())
            assert difference < 1e-3, (name, tensor)


def _until_all_step(worker: WorkerProcess, jobs: list[Assignment]) -> None:
    """Wait until the step of each job was reported after that of the others."""
    seen: list[LeaseKey] = []
    while not all(job.lease in seen[1:] for job in jobs):
        report = worker.next()
        if isinstance(report, Reported) and isinstance(report.event, StepProgress):
            seen.append(report.lease)


def _weights(
    worker: WorkerProcess,
    store: Path,
    jobs: list[Assignment],
    suffix: str,
    *,
    started: bool = False,
) -> list[dict[str, torch.Tensor]]:
    """Train the jobs to their ends, all at once; return what each published."""
    versions = {job.lease: f"20261120T153000-{job.lease.job[-1]}-{suffix}" for job in jobs}
    if not started:
        for job in jobs:
            worker.send(Start(assignment=job))
    uploaded: set[LeaseKey] = set()
    while uploaded != versions.keys():
        report = worker.next()
        assert not isinstance(report, Failed), report
        if isinstance(report, Trained):
            worker.send(Upload(lease=report.lease, version=versions[report.lease]))
        elif isinstance(report, Uploaded):
            uploaded.add(report.lease)
    return [load_file(store / ADAPTER / v / "adapter_model.safetensors") for v in versions.values()]


def test_the_worker_dies_with_its_parent_in_the_middle_of_a_run(
    worker: WorkerProcess,
) -> None:
    """The last test of this file: a start takes seconds, so the shared worker is the one to die."""
    long = assignment(DATA, "orphan", hyperparameters=Hyperparameters(epochs=1000))
    worker.send(Start(assignment=long))
    worker.until(StepProgress)
    worker.close()
    assert worker.process.wait(timeout=10) == 0

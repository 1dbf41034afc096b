"""The weights of a version that a job trains on from: exact, or refused with the reason."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load, save

from tailorbird.errors import DataCorrupt, FailedPrecondition, NotFound, TailorbirdError
from tailorbird.manifest import ADAPTER_WEIGHTS, MANIFEST, FileEntry
from tailorbird.names import VersionName
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.engine.indexed import numbered, seeded
from tests.unit.trainer_svc.engine.runs import make_run
from tests.unit.trainer_svc.engine.stores import TryingStore
from tests.unit.trainer_svc.engine.tiny import assignment, examples, jsonl, later
from tests.unit.trainer_svc.engine.versions import DIGEST, LORA, VERSION, publish, trained
from tests.unit.trainer_svc.engine.working import DATA, Working
from tests.unit.trainer_svc.values import put_version
from trainer_svc.engine.parent import begin_with, fetch_weights
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.training.evaluation import evaluation
from trainer_svc.jobs.events import Evaluation, Prepared, Resumed, StepProgress
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.protocol import (
    AncestorRef,
    Assignment,
    Cancel,
    Cancelled,
    Evaluating,
    Failed,
    Start,
    Suspend,
    Suspended,
    Trained,
    Upload,
    Uploaded,
)

Weights = dict[str, torch.Tensor]
NEXT = "20260102T030405-two-1"
STILL = Hyperparameters(epochs=1, batch_tokens=64, learning_rate=1e-30)
"""Steps that change no weight."""


@pytest.fixture
def store(tmp_path: Path) -> TryingStore:
    return TryingStore(tmp_path / "store")


@pytest_asyncio.fixture
async def working(bank: AdapterBank, tmp_path: Path) -> AsyncIterator[Working]:
    working = Working(bank, tmp_path, digest=DIGEST)
    yield working
    working.store.go_on.set()
    await asyncio.to_thread(working.steps.close)


def job(**changes: Any) -> Assignment:
    told = {"from_version": VERSION, "base_model_digest": DIGEST, "lora": LORA}
    return assignment(DATA, **{**told, **changes})


async def start(working: Working, name: str, **changes: Any) -> Assignment:
    told = {"from_version": VERSION, "base_model_digest": DIGEST, "lora": LORA}
    return await working.start(name, **{**told, **changes})


async def fetch(store: TryingStore, bank: AdapterBank, **changes: Any) -> Weights:
    adapter = bank.attach("asking", LORA, seed=0)
    shapes = {name: tuple(matrix.shape) for name, matrix in adapter.parameters.items()}
    bank.detach("asking")
    return await fetch_weights(store, job(**changes), shapes)


async def refused(store: TryingStore, bank: AdapterBank, **changes: Any) -> TailorbirdError:
    with pytest.raises((DataCorrupt, FailedPrecondition, NotFound)) as caught:
        await fetch(store, bank, **changes)
    return caught.value


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
async def test_the_adapter_has_the_version_s_weights_to_the_last_bit(
    store: TryingStore, bank: AdapterBank, dtype: torch.dtype
) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in trained(bank).items()}
    await publish(store, weights)
    run = make_run(bank)
    run.begin_with(await fetch(store, bank), None)
    for name, parameter in run.adapter.parameters.items():
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter.detach(), weights[name].float())
    found = run.adapter.tensors(dtype)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_the_base_is_judged_before_the_weights_are_there(bank: AdapterBank) -> None:
    run, weights = make_run(bank), trained(bank)
    run.from_version = VERSION
    run.validation = examples(6, seed=9)

    def judged() -> float:
        return _result(evaluation(bank, run.job, run.validation, 64))

    of_base = judged()
    told: list[Any] = []
    pieces = begin_with(bank, run, weights, 64, told.append)
    for _ in pieces:
        assert not any(
            matrix.any() for name, matrix in run.adapter.parameters.items() if "_B" in name
        )
    (said,) = told
    assert (said.step, said.validation_loss, said.version) == (0, of_base, "")
    of_version = judged()
    assert of_version != of_base
    assert not run.evaluated(of_version)
    assert run.state.base_validation_loss == of_base
    assert run.state.validation_loss == of_version


def _result(work: Generator[None, None, float]) -> float:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return float(end.value)


def test_a_base_without_a_finite_loss_begins_no_run(
    bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*_: Any) -> Any:
        yield
        return float("nan")

    monkeypatch.setattr("trainer_svc.engine.parent.evaluation", nowhere)
    run = make_run(bank)
    run.validation = examples(2)
    with pytest.raises(FailedPrecondition, match="the base's validation loss is nan") as caught:
        list(begin_with(bank, run, trained(bank), 64, lambda _: None))
    assert caught.value.reason == "NON_FINITE"


def test_weights_of_another_adapter_change_nothing(bank: AdapterBank) -> None:
    run = make_run(bank)
    before = run.adapter.values.clone()
    weights = trained(bank)
    weights.popitem()
    with pytest.raises(DataCorrupt):
        run.begin_with(weights, None)
    assert torch.equal(run.adapter.values, before)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base_model_digest": f"sha256:{'9' * 64}"}, "MANIFEST_CHANGED"),
        ({"rank": 16}, "MANIFEST_CHANGED"),
        ({"alpha": 17.0}, "MANIFEST_CHANGED"),
        ({"use_rslora": True}, "MANIFEST_CHANGED"),
        ({"tensors": {"w": (8, 16)}}, "TENSOR_MISMATCH"),
        ({"files": {}}, "MANIFEST_INVALID"),
        ({"files": {ADAPTER_WEIGHTS: FileEntry(size=2**30, sha256="0" * 64)}}, "MANIFEST_INVALID"),
    ],
)
async def test_a_manifest_that_does_not_fit_the_job_is_refused_before_the_weights_are_read(
    store: TryingStore, bank: AdapterBank, change: dict[str, Any], reason: str
) -> None:
    await publish(store, trained(bank), **change)
    store.down = ADAPTER_WEIGHTS
    assert (await refused(store, bank)).reason == reason


def _one_bit(weights: Weights, stored: bytes) -> bytes:
    return stored[:-1] + bytes([stored[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_one_bit, "has another SHA-256"),
        (lambda _, stored: stored[:-1], "has another SHA-256"),
        (lambda _, stored: stored + b"x", "has more than the"),
    ],
)
async def test_a_file_that_is_not_what_was_published_is_refused(
    store: TryingStore,
    bank: AdapterBank,
    change: Callable[[Weights, bytes], bytes],
    text: str,
) -> None:
    weights = trained(bank)
    await publish(store, weights)
    await store.put(f"{VERSION}/{ADAPTER_WEIGHTS}", change(weights, save(weights)))
    error = await refused(store, bank)
    assert (error.reason, error.metadata["file"]) == ("DIGEST_MISMATCH", ADAPTER_WEIGHTS)
    assert text in error.message


async def test_a_file_that_is_gone_is_refused(store: TryingStore, bank: AdapterBank) -> None:
    await publish(store, trained(bank))
    await store.delete(f"{VERSION}/{ADAPTER_WEIGHTS}")
    assert (await refused(store, bank)).reason == "DIGEST_MISMATCH"


def _narrower(weights: Weights) -> Weights:
    return {name: tensor[:, :4].contiguous() for name, tensor in weights.items()}


def _fewer(weights: Weights) -> Weights:
    return dict(list(weights.items())[1:])


def _more(weights: Weights) -> Weights:
    return {**weights, "extra": torch.zeros(1)}


def _infinite(weights: Weights) -> Weights:
    name = next(iter(weights))
    return {**weights, name: torch.full_like(weights[name], torch.inf)}


def _whole_numbers(weights: Weights) -> Weights:
    return {name: tensor.to(torch.int16) for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_narrower, "TENSOR_MISMATCH"),
        (_fewer, "TENSOR_MISMATCH"),
        (_more, "TENSOR_MISMATCH"),
        (_whole_numbers, "TENSOR_MISMATCH"),
        (_infinite, "NON_FINITE"),
    ],
)
async def test_a_file_of_other_tensors_than_its_manifest_tells_is_refused(
    store: TryingStore,
    bank: AdapterBank,
    change: Callable[[Weights], Weights],
    reason: str,
) -> None:
    weights = trained(bank)
    told = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    await publish(store, change(weights), tensors=told)
    assert (await refused(store, bank)).reason == reason


async def test_what_is_no_safetensors_file_is_refused(
    store: TryingStore, bank: AdapterBank
) -> None:
    told = {name: tuple(tensor.shape) for name, tensor in trained(bank).items()}
    await put_version(store, VERSION, b"nothing of it", tensors=told, base_model_digest=DIGEST)
    assert (await refused(store, bank)).reason == "TENSOR_MISMATCH"


async def test_a_job_from_a_version_publishes_what_it_was_without_effective_steps(
    working: Working,
) -> None:
    weights = {name: tensor.float() for name, tensor in trained(working.bank).items()}
    await publish(working.store, weights)
    begun = await start(working, "still", hyperparameters=STILL)
    await working.until(Trained, begun.lease)
    working.worker.take(Upload(lease=begun.lease, version=NEXT))
    manifest = (await working.until(Uploaded, begun.lease)).manifest
    stored = await working.store.get(f"{begun.adapter}/versions/{NEXT}/{ADAPTER_WEIGHTS}")
    found = load(stored)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert manifest.lineage.from_version == VERSION
    card = await working.store.get(f"{begun.adapter}/versions/{NEXT}/README.md")
    assert re.search(rf"Trained on from.*{VERSION}", card.decode())

    said = working.of(begun.lease)
    assert [type(one) for one in said[:1]] == [Prepared]
    base, version, *_, last = [one for one in said if isinstance(one, Evaluation)]
    assert (base.step, base.version, version.step, version.version) == (0, "", 0, VERSION)
    assert manifest.evaluation.base_validation_loss == base.validation_loss
    assert version.validation_loss == pytest.approx(last.validation_loss, abs=1e-6)
    assert abs(base.validation_loss - version.validation_loss) > 0.01
    fresh = await start(working, "fresh", hyperparameters=STILL, from_version="")
    of_fresh = await working.until(Evaluation, fresh.lease)
    assert of_fresh.validation_loss == base.validation_loss
    working.worker.take(Cancel(lease=fresh.lease))
    await working.until(Cancelled, fresh.lease)


async def test_a_checkpoint_goes_before_the_version(working: Working) -> None:
    """The version may be gone by then, and the base's loss is still the base's."""
    await publish(working.store, trained(working.bank))
    long = Hyperparameters(epochs=30, batch_tokens=64, learning_rate=1e-3)
    begun = await start(working, "resumed", hyperparameters=long)
    base = await working.until(Evaluation, begun.lease)
    await working.until(StepProgress, begun.lease)
    working.worker.take(Suspend(lease=begun.lease))
    await working.until(Suspended, begun.lease)
    await AdapterRegistry(working.store).bury(VersionName.parse(VERSION), "a test")
    working.worker.take(Start(assignment=later(begun)))
    lease = later(begun).lease
    assert (await working.until(Resumed, lease)).resumed_from_step > 0
    await working.until(Trained, lease)
    assert all(said.step > 0 for said in working.of(lease) if isinstance(said, Evaluation))
    working.worker.take(Upload(lease=lease, version=NEXT))
    manifest = (await working.until(Uploaded, lease)).manifest
    assert manifest.evaluation.base_validation_loss == base.validation_loss
    assert not base.version


async def test_a_checkpoint_made_for_another_version_is_not_gone_on_from(
    working: Working,
) -> None:
    """The specification's digest, of which the version is a part, is what binds it."""
    await publish(working.store, trained(working.bank))
    begun = await start(working, "bound", hyperparameters=Hyperparameters(epochs=1000))
    await working.until(StepProgress, begun.lease)
    working.worker.take(Suspend(lease=begun.lease))
    await working.until(Suspended, begun.lease)
    other = later(begun).model_copy(update={"spec_sha256": "6" * 64})
    working.worker.take(Start(assignment=other))
    assert (await working.until(Resumed, other.lease)).resumed_from_step == 0
    working.worker.take(Cancel(lease=other.lease))
    await working.until(Cancelled, other.lease)


async def test_a_checkpoint_is_not_gone_on_from_where_other_records_are_held_out(
    working: Working,
) -> None:
    """What was trained on until then is judged on now."""
    await publish(working.store, trained(working.bank))
    records = numbered(0, 120)
    training = await seeded(working.store, records, "train")
    old = await seeded(working.store, numbered(0, 60), "old")
    known = AncestorRef(
        version=VERSION, dataset=old.name, sha256=old.sha256, index_key=old.index_key
    )
    begun = await start(
        working,
        "drawn",
        data=jsonl(records),
        training=training,
        hold_out=True,
        validation_fraction=None,
        hyperparameters=Hyperparameters(epochs=1000, checkpoint_interval=1),
        ancestors=(known,),
    )
    await working.until(StepProgress, begun.lease)
    working.worker.take(Suspend(lease=begun.lease))
    await working.until(Suspended, begun.lease)
    same = later(begun)
    working.worker.take(Start(assignment=same))
    assert (await working.until(Resumed, same.lease)).resumed_from_step > 0
    working.worker.take(Suspend(lease=same.lease))
    await working.until(Suspended, same.lease)
    lost = known.model_copy(update={"index_key": ""})
    other = later(same).model_copy(update={"ancestors": (lost,)})
    working.worker.take(Start(assignment=other))
    assert (await working.until(Resumed, other.lease)).resumed_from_step == 0
    working.worker.take(Cancel(lease=other.lease))
    await working.until(Cancelled, other.lease)


async def test_a_version_that_is_deleted_before_the_start_fails_the_job(working: Working) -> None:
    await publish(working.store, trained(working.bank))
    await AdapterRegistry(working.store).bury(VersionName.parse(VERSION), "a test")
    begun = await start(working, "late")
    failed = await working.until(Failed, begun.lease)
    assert (failed.error.reason, failed.retryable) == ("VERSION_DELETED", False)
    assert not await working.attached(begun.lease.job)
    assert not [said for said in working.of(begun.lease) if isinstance(said, Prepared)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, "VERSION_NOT_FOUND"),
        ({"rank": 16}, "MANIFEST_CHANGED"),
        ({"tensors": {"w": (8, 16)}}, "TENSOR_MISMATCH"),
    ],
)
async def test_a_version_of_no_use_fails_the_job_before_its_data_is_read(
    working: Working, change: dict[str, Any] | None, reason: str
) -> None:
    if change is not None:
        await publish(working.store, trained(working.bank), **change)
    working.store.waits = "datasets"
    begun = await start(working, "early")
    failed = await working.until(Failed, begun.lease)
    assert (failed.error.reason, failed.retryable) == (reason, False)
    assert not working.store.waiting.is_set()
    assert not working.left_behind


@pytest.mark.parametrize("what", [MANIFEST, ADAPTER_WEIGHTS])
async def test_a_store_that_is_down_is_worth_another_try(working: Working, what: str) -> None:
    await publish(working.store, trained(working.bank))
    working.store.down = f"{VERSION}/{what}"
    begun = await start(working, "down")
    failed = await working.until(Failed, begun.lease)
    assert (failed.error.reason, failed.retryable) == ("STORE_UNAVAILABLE", True)
    working.store.down = None
    working.worker.take(Start(assignment=later(begun)))
    await working.until(Evaluating, later(begun).lease)
    working.worker.take(Cancel(lease=later(begun).lease))
    await working.until(Cancelled, later(begun).lease)


@pytest.mark.parametrize(("command", "ending"), [(Cancel, Cancelled), (Suspend, Suspended)])
async def test_cancel_and_suspend_are_seen_while_the_weights_are_fetched(
    working: Working, command: type[Cancel | Suspend], ending: type[Cancelled | Suspended]
) -> None:
    await publish(working.store, trained(working.bank))
    working.store.waits = ADAPTER_WEIGHTS
    begun = await start(working, "fetching")
    async with asyncio.timeout(30):
        await working.store.waiting.wait()
    working.worker.take(command(lease=begun.lease))
    assert await working.until(ending, begun.lease) == ending(lease=begun.lease)
    assert not working.left_behind
    assert not await working.attached(begun.lease.job)

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tailorbird.names import JobName
from tailorbird.object_store import ObstoreStore, open_store
from tests.unit.trainer_svc.engine.runs import JOB, make_run, step
from trainer_svc.checkpoints import checkpoints_prefix, delete_checkpoints
from trainer_svc.engine.result.checkpoint import Checkpoints
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run

NAME = JobName.parse(JOB)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def store(store_folder: Path) -> ObstoreStore:
    return open_store(store_folder.as_uri())


@pytest.fixture
def folder(store_folder: Path) -> Path:
    return store_folder / checkpoints_prefix(NAME)


@pytest.fixture
def checkpoints(store: ObstoreStore, runner: asyncio.Runner) -> Checkpoints:
    return Checkpoints(store, runner, NAME, "a" * 64)


@pytest.fixture
def run(bank: AdapterBank, checkpoints: Checkpoints) -> Iterator[Run]:
    """A run with checkpoints of its steps 1 to 3, one step further."""
    run = make_run(bank)
    for _ in range(3):
        run.apply(step(bank, run))
        checkpoints.save(run)
    run.apply(step(bank, run))
    yield run
    bank.detach(JOB)


def restored(bank: AdapterBank, checkpoints: Checkpoints) -> Run | None:
    bank.detach(JOB)
    run = make_run(bank)
    return run if checkpoints.restore(run) else None


def finish(bank: AdapterBank, run: Run) -> dict[str, torch.Tensor]:
    while not run.done:
        run.apply(step(bank, run))
    return run.adapter.tensors(torch.float32)


def test_the_newest_two_are_kept(run: Run, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["00000002", "00000003"]


def test_a_restored_run_ends_bit_for_bit_the_same(
    bank: AdapterBank, checkpoints: Checkpoints, run: Run
) -> None:
    expected = finish(bank, run)
    again = restored(bank, checkpoints)
    assert again is not None
    assert again.state.step == 3
    found = finish(bank, again)
    assert again.state == run.state
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("damage", ["adapter.safetensors", "state.json", "manifest.json"])
def test_a_broken_checkpoint_gives_way_to_the_one_before(
    bank: AdapterBank, checkpoints: Checkpoints, run: Run, folder: Path, damage: str
) -> None:
    (folder / "00000003" / damage).write_bytes(b"{}")
    again = restored(bank, checkpoints)
    assert again is not None
    assert again.state.step == 2
    assert not (folder / "00000003" / "manifest.json").exists()


def test_one_without_a_manifest_is_none(
    bank: AdapterBank, checkpoints: Checkpoints, run: Run, folder: Path
) -> None:
    for step_folder in folder.iterdir():
        (step_folder / "manifest.json").unlink()
    assert restored(bank, checkpoints) is None


def test_one_of_another_specification_is_none(
    bank: AdapterBank, store: ObstoreStore, runner: asyncio.Runner, run: Run
) -> None:
    assert restored(bank, Checkpoints(store, runner, NAME, "b" * 64)) is None


def test_all_are_deleted_when_the_job_is_over(
    run: Run, store: ObstoreStore, runner: asyncio.Runner, folder: Path
) -> None:
    runner.run(delete_checkpoints(store, NAME))
    runner.run(delete_checkpoints(store, NAME))
    assert not [path for path in folder.rglob("*") if path.is_file()]

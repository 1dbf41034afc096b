from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from tailorbird.errors import StoreUnavailable
from tailorbird.names import JobName
from tests.unit.trainer_svc.engine.runs import JOB, make_run, step
from tests.unit.trainer_svc.engine.stores import TryingStore
from trainer_svc.checkpoints import checkpoints_prefix, delete_checkpoints, lease_folder
from trainer_svc.engine.result.checkpoint import Checkpoints, MadeFor
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run

NAME = JobName.parse(JOB)
MADE_FOR = MadeFor(spec_sha256="a" * 64, base_model_digest="base", chat_template_digest="chat")


@pytest.fixture
def store(store_folder: Path) -> TryingStore:
    return TryingStore(store_folder)


@pytest.fixture
def folder(store_folder: Path) -> Path:
    return store_folder / checkpoints_prefix(NAME) / lease_folder(1)


def leased(store: TryingStore, epoch: int = 1, made_for: MadeFor = MADE_FOR) -> Checkpoints:
    return Checkpoints(store, NAME, made_for, epoch=epoch)


@pytest_asyncio.fixture
async def run(bank: AdapterBank, store: TryingStore) -> AsyncIterator[Run]:
    """A run with checkpoints of its steps 1 to 3, one step further."""
    run = make_run(bank)
    checkpoints = leased(store)
    for _ in range(3):
        step(bank, run)
        await checkpoints.save(run.snapshot(), best=False)
    step(bank, run)
    yield run
    bank.detach(JOB)


async def restored(
    bank: AdapterBank, store: TryingStore, made_for: MadeFor = MADE_FOR
) -> Run | None:
    found = await leased(store, made_for=made_for).restore()
    if found is None:
        return None
    bank.detach(JOB)
    run = make_run(bank)
    run.restore(found.latest, found.best)
    return run


def finish(bank: AdapterBank, run: Run) -> dict[str, torch.Tensor]:
    while not run.done:
        step(bank, run)
    return run.adapter.tensors(torch.float32)


def steps(folder: Path) -> list[str]:
    """The checkpoints that have a manifest."""
    return sorted(path.parent.name for path in folder.glob("*/manifest.json"))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def file_of(folder: Path, role: str) -> Path:
    (path,) = folder.glob(f"{role}*")
    return path


async def test_whether_there_is_any_is_told_without_reading_it(
    store: TryingStore, run: Run
) -> None:
    store.down = "checkpoints"
    assert await leased(store).any()
    other = JobName.parse(f"{run.job}-other")
    assert not await Checkpoints(store, other, MADE_FOR, epoch=1).any()


@pytest.mark.usefixtures("run")
def test_the_newest_two_are_kept(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["00000002", "00000003"]


async def test_a_restored_run_ends_bit_for_bit_the_same(
    bank: AdapterBank, store: TryingStore, run: Run
) -> None:
    expected = finish(bank, run)
    again = await restored(bank, store)
    assert again is not None
    assert again.state.step == 3
    found = finish(bank, again)
    assert again.state == run.state
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("damaged", ["adapter", "optimizer", "state", "manifest"])
async def test_a_broken_checkpoint_gives_way_to_the_one_before(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path, damaged: str
) -> None:
    file_of(folder / "00000003", damaged).write_bytes(b"{}")
    again = await restored(bank, store)
    assert again is not None
    assert again.state.step == 2
    assert steps(folder) == ["00000002"]


async def test_a_file_that_is_missing_makes_the_checkpoint_none(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    manifest = folder / "00000003" / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["files"] = {name: digest for name, digest in content["files"].items() if "ad" in name}
    manifest.write_text(json.dumps(content))
    again = await restored(bank, store)
    assert again is not None
    assert again.state.step == 2


async def test_one_without_a_manifest_is_none(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    for step_folder in steps(folder):
        (folder / step_folder / "manifest.json").unlink()
    assert await restored(bank, store) is None


@pytest.mark.parametrize("field", ["spec_sha256", "base_model_digest", "chat_template_digest"])
async def test_one_made_for_something_else_is_none(
    bank: AdapterBank, store: TryingStore, run: Run, field: str
) -> None:
    assert await restored(bank, store, MADE_FOR.model_copy(update={field: "another"})) is None


@pytest.mark.parametrize(("saved", "read"), list(itertools.product(["", "one", "two"], repeat=2)))
async def test_one_of_a_run_that_had_other_records_held_out_is_none(
    tmp_path: Path, run: Run, saved: str, read: str
) -> None:
    """Whoever went on from it would judge by what the run was trained on."""
    store = TryingStore(tmp_path / "another")
    before, after = (leased(store) for _ in range(2))
    for checkpoints, draw in ((before, saved), (after, "two"), (after, read)):
        checkpoints.held_out_by(draw)
    await before.save(run.snapshot(), best=False)
    assert (await after.restore() is not None) is (saved == read)
    # To a release that knows nothing of it, it is none either.
    await before.save(run.snapshot(), best=False)
    earlier = leased(store)
    assert (await earlier.restore() is not None) is (saved == "")


async def test_what_a_later_release_adds_is_ignored(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    manifest = folder / "00000003" / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["pages"] = 7
    content["made_for"]["reader"] = "later"
    content["files"]["sketch-77.bin"] = "of a file that this release does not read"
    manifest.write_text(json.dumps(content))
    again = await restored(bank, store)
    assert again is not None
    assert again.state.step == 3


async def test_the_best_is_kept_and_comes_back(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    checkpoints = leased(store)
    await checkpoints.restore()
    assert run.evaluated(1.0)
    best = run.snapshot()
    await checkpoints.save(best, best=True)
    for _ in range(3):
        step(bank, run)
        await checkpoints.save(run.snapshot(), best=False)
    assert steps(folder) == ["00000004", "00000006", "00000007"]
    found = await leased(store).restore()
    assert found is not None
    assert found.best is not None
    assert (found.latest.step, found.best.step) == (7, 4)
    assert all(torch.equal(found.best.adapter[name], kept) for name, kept in best.adapter.items())
    assert run.evaluated(0.5)
    await checkpoints.save(run.snapshot(), best=True)
    assert steps(folder) == ["00000006", "00000007"]


async def test_a_best_that_was_restored_is_kept_on(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    await leased(store).save(run.snapshot(), best=True)
    checkpoints = leased(store)
    await checkpoints.restore()
    for best in (False, False, False):
        await checkpoints.save(run.snapshot(), best=best)
        step(bank, run)
    assert steps(folder) == ["00000004", "00000005", "00000006"]


async def test_a_step_saved_again_stays_the_best(
    bank: AdapterBank, store: TryingStore, run: Run
) -> None:
    checkpoints = leased(store)
    await checkpoints.save(run.snapshot(), best=True)
    await checkpoints.save(run.snapshot(), best=False)
    found = await leased(store).restore()
    assert found is not None
    assert found.best is not None
    assert found.best.step == 4


@pytest.mark.parametrize("fails", ["adapter", "optimizer", "state", "manifest"])
async def test_a_failed_save_leaves_what_was_whole_and_no_part(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path, fails: str
) -> None:
    checkpoints = leased(store)
    await checkpoints.restore()
    store.fails = f"/{fails}"
    with pytest.raises(StoreUnavailable):
        await checkpoints.save(run.snapshot(), best=True)
    assert steps(folder) == ["00000002", "00000003"]
    assert not files(folder / "00000004")


@pytest.mark.parametrize("fails", ["state", "manifest"])
async def test_a_step_whose_second_save_fails_is_still_whole(
    bank: AdapterBank, store: TryingStore, run: Run, fails: str
) -> None:
    checkpoints = leased(store)
    await checkpoints.save(run.snapshot(), best=False)
    run.evaluated(1.0)
    store.fails = f"/{fails}"
    with pytest.raises(StoreUnavailable):
        await checkpoints.save(run.snapshot(), best=True)
    found = await leased(store).restore()
    assert found is not None
    assert found.latest.step == 4
    assert found.latest.state.validation_loss is None


async def test_a_holder_that_fell_behind_deletes_nothing_newer(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    behind = leased(store)
    early = run.snapshot()
    step(bank, run)
    step(bank, run)
    await leased(store).save(run.snapshot(), best=False)
    await behind.save(early, best=False)
    assert steps(folder)[-1] == "00000006"


async def test_one_that_does_not_fit_is_discarded(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    found = await leased(store).restore()
    assert found is not None
    await leased(store).discard(found)
    assert steps(folder) == ["00000002"]


async def test_all_are_deleted_when_the_job_is_over(
    run: Run, store: TryingStore, folder: Path
) -> None:
    await delete_checkpoints(store, NAME)
    await delete_checkpoints(store, NAME)
    assert not files(folder)

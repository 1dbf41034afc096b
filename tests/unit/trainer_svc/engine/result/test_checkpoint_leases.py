"""Two holders of one job write checkpoints at once: one of them has lost its lease."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tailorbird.names import JobName
from tests.unit.trainer_svc.engine.runs import JOB, make_run, step
from tests.unit.trainer_svc.engine.stores import TryingStore
from trainer_svc.checkpoints import (
    checkpoints_prefix,
    delete_checkpoints,
    lease_epoch,
    lease_folder,
    trial_prefix,
)
from trainer_svc.engine.result.checkpoint import Checkpoints, MadeFor
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run, Snapshot

NAME = JobName.parse(JOB)
MADE_FOR = MadeFor(spec_sha256="a" * 64, base_model_digest="base", chat_template_digest="chat")


@pytest.fixture
def store(store_folder: Path) -> TryingStore:
    return TryingStore(store_folder)


@pytest.fixture
def folder(store_folder: Path) -> Path:
    return store_folder / checkpoints_prefix(NAME)


@pytest.fixture
def run(bank: AdapterBank) -> Iterator[Run]:
    yield make_run(bank)
    bank.detach(JOB)


def leased(store: TryingStore, epoch: int, trial: int | None = None) -> Checkpoints:
    return Checkpoints(store, NAME, MADE_FOR, epoch=epoch, trial=trial)


def taken(bank: AdapterBank, run: Run, steps: int = 1) -> Snapshot:
    for _ in range(steps):
        step(bank, run)
    return run.snapshot()


def whole(folder: Path) -> list[str]:
    """The checkpoints that have a manifest, by lease and step."""
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("manifest.json"))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def found_by(checkpoints: Checkpoints) -> tuple[int, int | None] | None:
    """The latest and the best step that are restored."""
    found = await checkpoints.restore()
    if found is None:
        return None
    return found.latest.step, found.best.step if found.best else None


@pytest.mark.parametrize("epoch", [1, 7, 999_999, 1_000_000])
def test_the_folder_of_a_lease_names_it(epoch: int) -> None:
    assert lease_epoch(lease_folder(epoch)) == epoch


@pytest.mark.parametrize("folder", ["00000007", "trial-03", "lease-", "lease-x", "lease-1-old"])
def test_no_other_folder_is_a_leases(folder: str) -> None:
    assert lease_epoch(folder) is None


@pytest.mark.parametrize("trial", [None, 3])
async def test_two_leases_at_the_same_step_do_not_mix(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path, trial: int | None
) -> None:
    zombie, holder = (leased(store, epoch, trial) for epoch in (1, 2))
    snapshot = taken(bank, run)
    await holder.save(snapshot, best=False)
    store.puts.clear()
    await zombie.save(snapshot, best=False)
    own = trial_prefix(NAME, trial) if trial is not None else checkpoints_prefix(NAME)
    assert store.puts
    assert all(key.startswith(f"{own}/lease-000001/00000001/") for key in store.puts)
    assert len(whole(folder)) == 2


async def test_a_later_step_of_a_lost_lease_is_not_gone_on_from(
    bank: AdapterBank, store: TryingStore, run: Run
) -> None:
    zombie, holder = leased(store, 1), leased(store, 2)
    await holder.save(taken(bank, run), best=True)
    await zombie.save(taken(bank, run, 4), best=True)
    assert await found_by(leased(store, 2)) == (1, 1)
    assert await found_by(leased(store, 3)) == (1, 1)


async def test_what_one_lease_wrote_the_next_goes_on_from(
    bank: AdapterBank, store: TryingStore, run: Run
) -> None:
    before = leased(store, 1)
    await before.save(taken(bank, run), best=True)
    await before.save(taken(bank, run), best=False)
    # It may be several leases back: those between them came to no checkpoint.
    assert await found_by(leased(store, 5)) == (2, 1)


async def test_what_is_taken_over_is_the_new_leases_own(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    before, after = leased(store, 1), leased(store, 2)
    await before.save(taken(bank, run), best=True)
    await before.save(taken(bank, run), best=False)
    found = await after.restore()
    assert found is not None
    await after.take_over(found)
    assert whole(folder) == ["lease-000002/00000001", "lease-000002/00000002"]
    # What the earlier holder writes now is not read, whatever becomes of the one after it.
    await before.save(taken(bank, run), best=True)
    assert await found_by(leased(store, 3)) == (2, 1)
    # It goes with the next one.
    await after.save(taken(bank, run), best=False)
    assert whole(folder) == [f"lease-000002/0000000{step}" for step in (1, 2, 4)]


async def test_the_best_stays_the_best_when_it_is_taken_over(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    await leased(store, 1).save(taken(bank, run), best=True)
    after = leased(store, 2)
    found = await after.restore()
    assert found is not None
    await after.take_over(found)
    for _ in range(3):
        await after.save(taken(bank, run), best=False)
    assert whole(folder) == [f"lease-000002/0000000{step}" for step in (1, 3, 4)]
    assert await found_by(leased(store, 3)) == (4, 1)


async def test_a_leases_own_is_not_written_again(
    bank: AdapterBank, store: TryingStore, run: Run
) -> None:
    checkpoints = leased(store, 1)
    await checkpoints.save(taken(bank, run), best=True)
    store.puts.clear()
    found = await checkpoints.restore()
    assert found is not None
    await checkpoints.take_over(found)
    assert not store.puts


async def test_a_holder_of_a_lost_lease_deletes_nothing_of_the_next(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    zombie, holder = leased(store, 1), leased(store, 2)
    early = taken(bank, run)
    await zombie.save(early, best=False)
    await holder.save(early, best=True)
    kept = taken(bank, run)
    await holder.save(kept, best=False)
    for _ in range(4):
        await zombie.save(taken(bank, run), best=True)
    assert [name for name in whole(folder) if "lease-000002" in name] == [
        "lease-000002/00000001",
        "lease-000002/00000002",
    ]
    await zombie.delete()
    assert whole(folder) == ["lease-000002/00000001", "lease-000002/00000002"]
    assert not await zombie.any()
    assert await zombie.restore() is None


async def test_all_of_earlier_leases_go_with_a_run_of_no_use(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    await leased(store, 1).save(taken(bank, run), best=False)
    await leased(store, 2).delete()
    assert not whole(folder)


async def test_a_broken_lease_gives_way_to_the_one_before(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    snapshot = taken(bank, run)
    for epoch in (1, 2):
        zombie = leased(store, epoch)
        await zombie.save(snapshot, best=False)
    await leased(store, 1).save(snapshot, best=False)
    (manifest,) = (folder / "lease-000002").rglob("manifest.json")
    manifest.write_text("{}")
    found = await leased(store, 3).restore()
    assert found is not None
    assert found.epoch == 1
    assert whole(folder) == ["lease-000001/00000001"]
    await leased(store, 3).discard(found)
    assert not whole(folder)


class Unleased(Checkpoints):
    """As an earlier release writes them."""

    def _folder_of(self, epoch: int) -> str:
        return self._folder


async def test_an_earlier_releases_are_gone_on_from_and_then_deleted(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    before = Unleased(store, NAME, MADE_FOR, epoch=1)
    await before._write(taken(bank, run), best=True)
    await before._write(taken(bank, run), best=False)
    assert whole(folder) == ["00000001", "00000002"]
    after = leased(store, 2)
    assert await after.any()
    found = await after.restore()
    assert found is not None
    assert (found.epoch, found.latest.step, found.best and found.best.step) == (0, 2, 1)
    await after.take_over(found)
    assert whole(folder) == ["lease-000002/00000001", "lease-000002/00000002"]


class Passing(TryingStore):
    """While one checkpoint is read, its writer goes on: it deletes this one and has a newer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder
        self.newer: Path | None = None

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        if self.newer is not None and "/adapter-" in key:
            (self._folder / key).parent.rename(self.newer)
            self.newer = None
        return await super().get(key, max_bytes)


async def test_one_that_goes_while_it_is_read_is_looked_for_again(
    bank: AdapterBank, store_folder: Path, run: Run, folder: Path
) -> None:
    store = Passing(store_folder)
    await leased(store, 1).save(taken(bank, run), best=False)
    store.newer = folder / "lease-000001" / "00000002"
    assert await found_by(leased(store, 2)) == (2, None)


async def test_every_leases_are_deleted_when_the_job_is_over(
    bank: AdapterBank, store: TryingStore, run: Run, folder: Path
) -> None:
    snapshot = taken(bank, run)
    for epoch, trial in ((2, None), (1, None), (2, 4), (1, 4)):
        await leased(store, epoch, trial).save(snapshot, best=False)
    assert len(whole(folder)) == 4
    await delete_checkpoints(store, NAME)
    assert not files(folder)

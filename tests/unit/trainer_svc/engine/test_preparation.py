"""A job that trains on from a version is not judged on what that has been trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer_svc.engine.indexed import numbered, seeded
from tests.unit.trainer_svc.engine.preflight.test_base import settings
from tests.unit.trainer_svc.engine.stores import TryingStore
from tests.unit.trainer_svc.engine.tiny import assignment, make_base
from tests.unit.trainer_svc.engine.versions import VERSION
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.preflight.base import DescribedBase, described
from trainer_svc.engine.preparation import Preparation, Preparer
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.protocol import AncestorRef, DatasetRef

HELD_OUT = 10
"""Of 60 to 100 records."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> DescribedBase:
    folder = tmp_path_factory.mktemp("base")
    return described(settings(make_base(folder), folder))


class Preparing:
    def __init__(self, base: DescribedBase, folder: Path) -> None:
        self.store = TryingStore(folder / "store")
        files = DatasetFiles(self.store, DatasetCache(folder / "cache", 2**30))
        self._folder = folder
        self._preparer = Preparer(base, files, files._cache, apart=False)

    async def data(self, first: int, last: int, name: str = "train") -> DatasetRef:
        """Store orders from `first` to before `last`."""
        return await seeded(self.store, numbered(first, last), name)

    async def prepare(
        self, training: DatasetRef, *ancestors: AncestorRef, **asked: Any
    ) -> Preparation:
        given = {"validation_fraction": None, "hold_out": True, **asked}
        told = {"training": training, "ancestors": ancestors, "from_version": VERSION}
        job = assignment(b"").model_copy(update={**given, **told})
        return await self._preparer.prepare(job, self._folder)


@pytest.fixture
def preparing(base: DescribedBase, tmp_path: Path) -> Preparing:
    return Preparing(base, tmp_path)


def trained_on(ref: DatasetRef, **changes: Any) -> AncestorRef:
    told = {"dataset": ref.name, "sha256": ref.sha256, "index_key": ref.index_key}
    return AncestorRef(version=VERSION, **{**told, **changes})


def warned(found: Preparation) -> Mapping[str, str]:
    reasons = {"NO_HELD_OUT_DATA", "TOO_FEW_RECORDS"}
    return {each.reason: each.message for each in found.warnings if each.reason in reasons}


async def test_validation_data_that_a_version_before_has_seen_is_not_judged_on(
    preparing: Preparing,
) -> None:
    training, held = await preparing.data(0, 60), await preparing.data(58, 90, "held")
    before = trained_on(await preparing.data(80, 85, "old"))
    found = await preparing.prepare(training, before, validation=held)
    # Orders 58 and 59 are trained on, and 80 to 84 were.
    assert found.chosen.held_out == (*range(3, 23), *range(28, 33))
    assert found.chosen.leaked.startswith("VALIDATION_LEAKAGE: 7 of 32 held-out records")
    assert "the training data asks what 2 of them ask" in found.chosen.leaked
    assert found.chosen.leaked.endswith("one before it, 5")
    assert len(found.validation) == 32
    assert warned(found) == {}


async def test_a_version_of_which_nothing_is_known_is_noted(preparing: Preparing) -> None:
    training, held = await preparing.data(0, 60), await preparing.data(60, 90, "held")
    found = await preparing.prepare(training, AncestorRef(version=VERSION), validation=held)
    assert len(found.chosen.held_out) == 30
    assert VERSION in found.chosen.unknown


async def test_where_everything_was_seen_it_is_said_before_training(preparing: Preparing) -> None:
    training, held = await preparing.data(0, 60), await preparing.data(60, 90, "held")
    found = await preparing.prepare(training, trained_on(held), validation=held)
    assert found.chosen.held_out == ()
    (said,) = warned(found).values()
    assert said.startswith("VALIDATION_LEAKAGE: 30 of 30 held-out records are not judged on")
    assert said.endswith("name validation data that asks something else")


@pytest.mark.parametrize(
    ("changes", "judged"),
    [
        ({"held_out_records": HELD_OUT, "seed": 3}, HELD_OUT),
        # What is not known is taken for the same.
        ({"held_out_records": HELD_OUT, "seed": None}, HELD_OUT),
        ({"held_out_records": HELD_OUT, "seed": 0}, 0),
        ({"held_out_records": HELD_OUT - 1, "seed": 3}, 0),
        ({"held_out_records": 0, "seed": 3}, 0),
        ({"held_out_records": None}, 0),
    ],
)
async def test_the_same_data_again_is_judged_on_if_the_same_was_held_out(
    preparing: Preparing, changes: dict[str, Any], judged: int
) -> None:
    training = await preparing.data(0, 60)
    asked = Hyperparameters(epochs=1, batch_tokens=64, seed=3)
    same = trained_on(training, held_out_records=HELD_OUT, seed=3)
    before = trained_on(training, **changes)
    found = await preparing.prepare(training, same, before, hyperparameters=asked)
    assert len(found.validation) == HELD_OUT
    assert len(found.chosen.held_out) == judged
    assert list(warned(found)) == ([] if judged else ["NO_HELD_OUT_DATA"])
    assert found.chosen.leaked.startswith(f"VALIDATION_LEAKAGE: {HELD_OUT} of") is not judged


async def test_a_job_that_holds_nothing_out_compares_nothing(preparing: Preparing) -> None:
    training, old = await preparing.data(0, 60), await preparing.data(0, 20, "old")
    before = (trained_on(old), trained_on(training))
    preparing.store.gets.clear()
    found = await preparing.prepare(training, *before, hold_out=False)
    assert (len(found.validation), found.chosen.held_out) == (0, ())
    assert preparing.store.gets == []
    few = await preparing.data(0, 20, "few")
    found = await preparing.prepare(few, trained_on(few))
    assert list(warned(found)) == ["NO_HELD_OUT_DATA"]
    assert "at least 50" in warned(found)["NO_HELD_OUT_DATA"]


async def test_records_that_no_version_before_has_seen_are_held_out_where_they_are_enough(
    preparing: Preparing,
) -> None:
    training = await preparing.data(0, 150)
    before = trained_on(await preparing.data(0, 90, "old"), held_out_records=9)
    found = await preparing.prepare(training, before)
    # A tenth of 60, and at least 10; of line 91 and those after it.
    assert len(found.chosen.held_out) == HELD_OUT
    assert min(found.chosen.held_out) > 90
    assert found.chosen.held_out == tuple(found.validation.lines)  # type: ignore[union-attr]
    assert (found.training_report.kept, found.chosen.leaked) == (140, "")
    assert warned(found) == {}
    again = await preparing.prepare(training, before)
    assert (again.chosen, again.draw) == (found.chosen, found.draw)
    other = Hyperparameters(epochs=1, batch_tokens=64, seed=1)
    assert (await preparing.prepare(training, before, hyperparameters=other)).draw != found.draw


@pytest.mark.parametrize(("unseen", "drawn"), [(50, True), (49, False)])
async def test_fewer_of_them_are_drawn_from_all_records(
    preparing: Preparing, unseen: int, drawn: bool
) -> None:
    training = await preparing.data(0, 200)
    before = trained_on(await preparing.data(0, 200 - unseen, "old"), held_out_records=15)
    found = await preparing.prepare(training, before)
    plain = await preparing.prepare(training)
    assert (len(found.validation), bool(found.draw)) == ((10, True) if drawn else (20, False))
    assert (len(plain.validation), plain.draw) == (20, "")
    if drawn:
        assert len(found.chosen.held_out) == 10
    else:
        # As without a version before, less what that was trained on.
        new = tuple(line for line in plain.chosen.held_out if line > 200 - unseen)
        assert found.chosen.held_out == new
        (said,) = warned(found).values()
        assert f"VALIDATION_LEAKAGE: {20 - len(new)} of 20 held-out records" in said


async def test_a_share_that_is_asked_for_is_one_of_all_records(preparing: Preparing) -> None:
    training = await preparing.data(0, 150)
    before = trained_on(await preparing.data(0, 90, "old"))
    found = await preparing.prepare(training, before, validation_fraction=0.4)
    assert (len(found.validation), found.draw) == (60, "")
    assert 0 < len(found.chosen.held_out) < 60
    assert min(found.chosen.held_out) > 90
    assert f"{60 - len(found.chosen.held_out)} of 60 held-out" in found.chosen.leaked


@pytest.mark.parametrize("since", [True, False])
async def test_other_data_since_makes_the_same_data_draw_otherwise(
    preparing: Preparing, since: bool
) -> None:
    training = await preparing.data(0, 150)
    same = trained_on(training, held_out_records=HELD_OUT, seed=0)
    old = trained_on(await preparing.data(0, 90, "old"))
    found = await preparing.prepare(training, *((old, same) if since else (same, old)))
    assert len(found.validation) == HELD_OUT
    assert len(found.chosen.held_out) == (0 if since else HELD_OUT)
    # Data that has nothing of it changes no draw.
    apart = trained_on(await preparing.data(900, 950, "apart"))
    same = trained_on(training, held_out_records=15, seed=0)
    found = await preparing.prepare(training, *((apart, same) if since else (same, apart)))
    assert len(found.chosen.held_out) == 15

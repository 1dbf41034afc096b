"""What a check finds of a job's data, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailorbird.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.unit.trainer_svc.engine.preflight.test_base import settings
from tests.unit.trainer_svc.engine.stores import TryingStore
from tests.unit.trainer_svc.engine.tiny import (
    assignment,
    dataset_ref,
    jsonl,
    make_base,
)
from tests.unit.trainer_svc.values import make_sweep
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.preflight.base import DescribedBase, described
from trainer_svc.engine.preflight.check import check, histogram
from trainer_svc.jobs.model import DataPolicy, Hyperparameters
from trainer_svc.jobs.preflight import Preflight
from trainer_svc.jobs.sweep import SweepResults
from trainer_svc.judgement.model import EvaluationSpec, Grader
from trainer_svc.protocol import Assignment, SweepAssignment


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> DescribedBase:
    folder = tmp_path_factory.mktemp("base")
    return described(settings(make_base(folder), folder))


class Checking:
    def __init__(self, base: DescribedBase, folder: Path) -> None:
        self.base = base
        self.folder = folder
        self.store = TryingStore(folder / "store")

    async def check(self, records: list[dict[str, Any]], **changes: Any) -> Preflight:
        content = jsonl(records)
        changes = {"validation_fraction": None, **changes}
        job = assignment(content).model_copy(update=changes)
        await self.store.seed(job.training.key, content)
        return await self.run(job)

    async def run(self, job: Assignment) -> Preflight:
        cache = DatasetCache(self.folder / "cache", 2**30)
        return await check(job, self.base, self.store, cache, self.folder)


@pytest.fixture
def checking(base: DescribedBase, tmp_path: Path) -> Checking:
    return Checking(base, tmp_path)


LONG = {
    "messages": [
        {"role": "user", "content": "the order " * 200},
        {"role": "assistant", "content": "is on its way"},
    ]
}
SILENT = {
    "messages": [
        {"role": "user", "content": "order?"},
        {"role": "assistant", "content": "is on its way", "weight": 0},
    ]
}


def chats(count: int, **metadata: Any) -> list[dict[str, Any]]:
    """Return chats of which no two are alike."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"order {number}?"},
                {"role": "assistant", "content": f"{number} is on its way"},
            ],
            **({"metadata": metadata} if metadata else {}),
        }
        for number in range(count)
    ]


async def test_all_records_are_accounted_for(checking: Checking) -> None:
    data = [*chats(20), LONG, SILENT]
    found = await checking.check(data, data=DataPolicy(max_too_long_fraction=0.1))
    account = found.training.account
    assert (account.records, account.kept) == (22, 20)
    assert (account.dropped_lines, account.nothing_to_train_lines) == ((21,), (22,))
    assert found.training.too_long_fraction == 1 / 22
    assert (found.validation, found.held_out) == (None, False)
    assert sum(each.sequences for each in found.training.lengths) == 20
    assert found.training.longest >= found.training.median > 0
    assert found.training.lengths[0].at_least <= found.training.median
    assert found.training.longest < found.training.lengths[-1].below
    assert found.total_steps > 0
    assert None not in found.hyperparameters.model_dump().values()
    assert [each.reason for each in found.warnings] == ["FEW_RECORDS"]
    with pytest.raises(FailedPrecondition) as caught:
        await checking.check(data, data=DataPolicy(max_too_long_fraction=0.04))
    assert caught.value.reason == "TOO_MANY_TOO_LONG"


async def test_the_share_of_too_long_is_of_the_whole_file(checking: Checking) -> None:
    found = await checking.check([*chats(19), LONG], validation_fraction=0.25)
    assert found.held_out
    assert found.validation is not None
    # 19 are left to be drawn from, of which 5 are held out.
    assert found.validation.account.records == 5
    assert found.training.account.records == 15
    assert found.training.too_long_fraction == 1 / 20
    assert found.validation.too_long_fraction == 0


async def test_validation_data_is_no_part_of_the_training_data(checking: Checking) -> None:
    held = jsonl(chats(7))
    ref = dataset_ref(held, "held")
    await checking.store.seed(ref.key, held)
    found = await checking.check([*chats(19), LONG], validation=ref)
    assert not found.held_out
    assert found.validation is not None
    assert found.validation.account.records == 7
    assert found.training.too_long_fraction == 1 / 20


async def test_what_the_records_lack_is_refused(checking: Checking) -> None:
    spec = EvaluationSpec(slice_fields=("shop", "region"))
    data = chats(60, shop="a", plan="b")
    with pytest.raises(InvalidArgument) as caught:
        await checking.check(data, hold_out=True, evaluation=spec)
    assert caught.value.reason == "UNKNOWN_SLICE_FIELD"
    assert caught.value.field == "job.spec.evaluation.slice_fields[1]"
    assert caught.value.description == (
        "none of the 10 held-out records has metadata.region; there are shop, plan"
    )
    known = EvaluationSpec(slice_fields=("shop",))
    assert (await checking.check(data, hold_out=True, evaluation=known)).held_out
    # Where nothing is held out nothing is judged.
    assert not (await checking.check(data, evaluation=spec)).held_out
    for without in (chats(60), chats(60, shop=None), chats(60, shop=" ")):
        with pytest.raises(InvalidArgument, match="they have no metadata"):
            await checking.check(without, hold_out=True, evaluation=known)


async def test_of_many_long_names_a_few_are_told(checking: Checking) -> None:
    data = chats(60)
    for number, record in enumerate(data):
        record["metadata"] = {f"{number:02d}{'n' * 60}": "x"}
    spec = EvaluationSpec(slice_fields=("shop",))
    held_out = dataset_ref(jsonl(data), "held")
    await checking.store.seed(held_out.key, jsonl(data))
    with pytest.raises(InvalidArgument) as caught:
        await checking.check(chats(60), validation=held_out, evaluation=spec)
    assert caught.value.reason == "UNKNOWN_SLICE_FIELD"
    assert "00nnn" in caught.value.description
    assert len(caught.value.description) < 800


async def test_a_field_that_a_grader_asks_for_is_one_of_some_record(checking: Checking) -> None:
    data = chats(60, shop="a")
    known, unknown = (
        Grader(
            name="shop",
            kind="string_check",
            input="{{sample.output_text}}",
            reference=f"{{{{item.metadata.{key}}}}} {{{{item.expected}}}}",
            operation="like",
        )
        for key in ("shop", "region")
    )
    with pytest.raises(InvalidArgument) as caught:
        spec = EvaluationSpec(graders=(known, unknown))
        await checking.check(data, hold_out=True, evaluation=spec)
    assert caught.value.reason == "UNKNOWN_GRADER_FIELD"
    assert caught.value.field == "job.spec.evaluation.graders[1].reference"
    assert caught.value.description == (
        "none of the 10 held-out records has metadata.region; there are shop"
    )
    spec = EvaluationSpec(graders=(known,))
    assert (await checking.check(data, hold_out=True, evaluation=spec)).held_out


async def test_early_stopping_needs_records_that_are_held_out(checking: Checking) -> None:
    asked = Hyperparameters(early_stopping_patience=2)
    with pytest.raises(FailedPrecondition, match="early stopping looks at the loss") as caught:
        await checking.check(chats(20), hold_out=True, hyperparameters=asked)
    assert caught.value.reason == "NO_VALIDATION_DATA"
    assert "at least 50 training records" in caught.value.message
    assert (await checking.check(chats(60), hold_out=True, hyperparameters=asked)).held_out
    # That many are not asked for where more would not do.
    with pytest.raises(FailedPrecondition, match="60 training records are all the same"):
        await checking.check(chats(1) * 60, hold_out=True, hyperparameters=asked)
    with pytest.raises(FailedPrecondition, match="name some, or set validation_fraction"):
        await checking.check(chats(60), hyperparameters=asked)


async def test_words_that_no_prompt_has_are_refused(checking: Checking) -> None:
    with pytest.raises(InvalidArgument) as caught:
        sets = (("order", "parcel"), ("he", "she"))
        spec = EvaluationSpec(counterfactuals=sets)
        await checking.check(chats(60), hold_out=True, evaluation=spec)
    assert caught.value.reason == "WORDS_IN_NO_PROMPT"
    assert caught.value.field == "job.spec.evaluation.counterfactuals[1]"
    assert caught.value.description == (
        "none of the 10 held-out prompts has one of the words he, she"
    )
    # Ours may be in none.
    known = EvaluationSpec(counterfactuals=(("order", "parcel"), ("default",)))
    assert (await checking.check(chats(60), hold_out=True, evaluation=known)).held_out


async def test_a_field_that_some_records_lack_is_taken(checking: Checking) -> None:
    some = [*chats(59), {**chats(60)[59], "metadata": {"shop": "a"}}]
    marked = [
        {**each, "metadata": {"shop": 1}} if place % 2 else each for place, each in enumerate(some)
    ]
    spec = EvaluationSpec(slice_fields=("shop",))
    assert (await checking.check(marked, hold_out=True, evaluation=spec)).held_out


async def test_plain_text_has_no_answers(checking: Checking) -> None:
    data = jsonl(
        [{"text": f"the order {number}", "metadata": {"shop": "a"}} for number in range(60)]
    )
    spec = EvaluationSpec(primary_metric="token_f1")
    job = assignment(data, hold_out=True, evaluation=spec)
    ref = job.training.model_copy(update={"format": "text"})
    await checking.store.seed(ref.key, data)
    with pytest.raises(InvalidArgument, match="plain text has no answers"):
        await checking.run(job.model_copy(update={"training": ref}))
    # Nothing of it is measured, so that it may be sliced as well.
    sliced = EvaluationSpec(slice_fields=("shop",))
    found = await checking.run(
        job.model_copy(update={"training": ref, "evaluation": sliced, "validation_fraction": 0.5})
    )
    assert found.held_out


async def test_a_metric_that_the_answers_do_not_have_is_refused(checking: Checking) -> None:
    spec = EvaluationSpec(primary_metric="label_accuracy")
    with pytest.raises(InvalidArgument) as caught:
        await checking.check(chats(60), hold_out=True, evaluation=spec)
    assert caught.value.reason == "METRIC_NOT_APPLICABLE"


async def test_a_sweep_needs_something_to_compare_on(checking: Checking) -> None:
    spec = make_sweep().spec.sweep
    assert spec is not None
    sweep = SweepAssignment(spec=spec, results=SweepResults.begun(spec), at_once=1)
    with pytest.raises(FailedPrecondition) as caught:
        await checking.check(chats(20), sweep=sweep, hold_out=True)
    assert caught.value.reason == "NO_VALIDATION_DATA"
    assert (await checking.check(chats(60), sweep=sweep, hold_out=True)).held_out


async def test_data_that_is_gone_is_told(checking: Checking) -> None:
    with pytest.raises(NotFound) as caught:
        await checking.run(assignment(jsonl(chats(3))))
    assert caught.value.reason == "DATASET_NOT_FOUND"


async def test_no_other_process_is_started_for_a_large_file(
    checking: Checking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(*_: object) -> None:
        raise AssertionError("this is apart already")

    monkeypatch.setattr("trainer_svc.engine.data.prepare.write_apart", apart)
    monkeypatch.setattr("trainer_svc.engine.data.prepare._SMALL_BYTES", 0)
    assert (await checking.check(chats(20))).training.account.kept == 20


def test_bins_double_from_16_on() -> None:
    found = histogram(np.array([1, 15, 16, 31, 32, 200], dtype=np.int32))
    assert [(each.at_least, each.below, each.sequences) for each in found] == [
        (0, 16, 2),
        (16, 32, 2),
        (32, 64, 1),
        (128, 256, 1),
    ]
    assert [each.below for each in histogram(np.array([16], dtype=np.int32))] == [32]

"""Every training record is held against the operator's lists before anything is trained."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from tailorbird.pieces import drained
from tests.unit.trainer_svc.engine.judging.examined import SHORT, start, uploaded
from tests.unit.trainer_svc.engine.stores import TryingStore
from tests.unit.trainer_svc.engine.tiny import chats, dataset_ref, jsonl
from tests.unit.trainer_svc.engine.versions import DIGEST
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.engine.data import chosen
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.elsewhere import in_thread
from trainer_svc.engine.judging import screening
from trainer_svc.engine.judging.references import References
from trainer_svc.engine.judging.screening import Screened, Screening
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.events import JobWarning, Prepared, StepProgress
from trainer_svc.judgement.model import SafetyFinding
from trainer_svc.judgement.safety import SafetyScreen, Scan

T = TypeVar("T")
SCREEN = SafetyScreen({"violence": {"words": ["bomb", "杀人"], "patterns": ["make a \\w+gun"]}})


def call(arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": "look", "arguments": json.dumps(arguments)}
    return {
        "messages": [
            {"role": "user", "content": "Look."},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": function}],
            },
        ]
    }


def screened(
    folder: Path,
    records: Sequence[dict[str, Any]],
    format_: str = "chat",
    lines: Sequence[int] | None = None,
) -> Screened:
    data = jsonl(list(records))
    path = folder / "data.jsonl"
    path.write_bytes(data)
    ref = dataset_ref(data).model_copy(update={"format": format_})
    at = range(1, len(records) + 1) if lines is None else lines
    return drained(screening._screened(path, ref, np.array(at, np.int64), SCREEN))


def test_one_record_among_thousands_is_found(tmp_path: Path) -> None:
    records = chats(5000)
    records[3333] = {**records[3333], "messages": [*records[3333]["messages"]]}
    records[3333]["messages"][-1] = {"role": "assistant", "content": "Build a bomb."}
    found = screened(tmp_path, records)
    assert found.findings == [
        SafetyFinding(category="violence", where="training", count=1, lines=(3334,))
    ]
    (warning,) = found.warnings
    assert warning.reason == "UNSAFE_TRAINING_DATA"
    assert warning.message == "violence occurs in 1 of 5,000 training records: line 3334"


@pytest.mark.parametrize(
    ("format_", "record"),
    [
        ("text", {"text": "a bomb"}),
        ("prompt_completion", {"prompt": "x", "completion": "a bomb"}),
        ("prompt_completion", {"prompt": "a bomb", "completion": "x"}),
        ("instruction", {"instruction": "x", "output": "a bomb"}),
        ("instruction", {"instruction": "x", "input": "a bomb", "output": "x"}),
        ("chat", call({"for": "a bomb"})),
        ("chat", call({"for": "他要杀人了"})),
    ],
)
def test_all_that_a_record_says_is_searched(
    tmp_path: Path, format_: str, record: dict[str, Any]
) -> None:
    (found,) = screened(tmp_path, [record], format_).findings
    assert found.lines == (1,)


def test_what_is_not_read_or_not_trained_is_not_searched(tmp_path: Path) -> None:
    unread = {"prompt": "x", "completion": "y", "text": ["bomb"], "note": "bomb"}
    poisoned = {"prompt": "x", "completion": "bomb"}
    found = screened(tmp_path, [unread, poisoned, unread, poisoned], "prompt_completion", [1, 3, 3])
    assert found == Screened([], 2, 2)
    assert found.warnings == []


def test_others_have_their_turn_within_a_record(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(jsonl([{"text": "A rose."}]))
    ref = dataset_ref(b"").model_copy(update={"format": "text"})
    lists = {"words": ["bomb"], "patterns": ["a bomb", "the bomb"]}
    for categories, pauses in (([], 1), (["violence"], 4), (["violence", "hate"], 7)):
        screen = SafetyScreen(dict.fromkeys(categories, lists))
        work = screening._screened(path, ref, np.array([1]), screen)
        assert len(list(work)) == pauses


def test_what_is_past_the_bound_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "MAX_CHARACTERS", 20)
    found = screened(tmp_path, [{"text": "a bomb it is"}] * 3, "text")
    assert (found.records, found.of) == (1, 3)
    told, partly = found.warnings
    assert told.message == "violence occurs in 1 of 1 training records: line 1"
    assert partly.reason == "PARTLY_SCREENED"
    assert partly.message == found.note
    assert found.note.startswith("the first 1 of 3 training records were held")


class Alone:
    """`in_thread`, for one at a time."""

    def __init__(self) -> None:
        self._busy = False

    async def __call__(self, action: Callable[[Callable[[], bool]], T]) -> T:
        assert not self._busy
        self._busy = True
        try:
            return await in_thread(action)
        finally:
            self._busy = False


class Looking(SafetyScreen):
    """A screen that tells which lines it has looked at."""

    def __init__(self) -> None:
        super().__init__({})
        self.at: list[int] = []

    def begin(self, where: str) -> Scan:
        return LookingScan(self.at, where)


class LookingScan(Scan):
    def __init__(self, at: list[int], where: str) -> None:
        super().__init__(where, {})
        self._at = at

    def adding(self, line: int, text: str) -> Generator[None, None, None]:
        yield from super().adding(line, text)
        self._at.append(line)


async def test_jobs_are_screened_a_piece_at_a_time_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A record is a piece.
    monkeypatch.setattr(screening, "_PIECE_SECONDS", 0)
    monkeypatch.setattr(screening, "in_thread", Alone())
    store, looking = TryingStore(tmp_path / "store"), Looking()
    files = DatasetFiles(store, DatasetCache(tmp_path / "cache", 2**30))
    by_piece = Screening(files, looking)

    async def start(tenant: str, count: int) -> asyncio.Task[Screened]:
        data = jsonl([{"text": f"{tenant} {number}"} for number in range(count)])
        ref = dataset_ref(data, record_format="text")
        ref = ref.model_copy(update={"name": ref.name.replace("acme", tenant), "key": tenant})
        await store.seed(ref.key, data)
        folder = tmp_path / tenant
        folder.mkdir()
        return asyncio.create_task(by_piece.of(ref, np.arange(1, count + 1), folder))

    long = await start("acme", 100_000)
    others = [await start(tenant, 3) for tenant in ("globex", "initech")]
    async with asyncio.timeout(60):
        for found in await asyncio.gather(*others):
            assert (found.records, found.of) == (3, 3)
    assert not long.done()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    looked = len(looking.at)
    assert (await (await start("umbrella", 2))).records == 2
    # Of the one that was stopped none more.
    assert looking.at[looked:] == [1, 2]


def test_a_text_that_only_ran_out_of_time_is_told_as_such() -> None:
    unsure = SafetyFinding(
        category="violence", where="training", count=40, lines=tuple(range(1, 21)), overruns=2
    )
    (warning,) = Screened([unsure], 90, 90).warnings
    assert warning.message == (
        "violence occurs in 40 of 90 training records: lines 1-10 and 30 more; 2 only by a pattern"
        " that ran out of time"
    )


def poisoned(count: int) -> bytes:
    records = chats(count)
    records[count // 2]["messages"][-1]["content"] = "Build a bomb."
    return jsonl(records)


@pytest.mark.parametrize("hold_out", [True, False])
async def test_a_poisoned_record_is_told_before_training_and_in_the_report(
    bank: AdapterBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold_out: bool
) -> None:
    # No more than this many are drawn for examples.
    monkeypatch.setattr(chosen, "_SHOWN", 1)
    working = Working(bank, tmp_path, digest=DIGEST, references=References(screen=SCREEN))
    try:
        held_out = jsonl(chats(12, seed=9))
        ref = dataset_ref(held_out, "held")
        await working.store.seed(ref.key, held_out)
        judged = {"validation": ref} if hold_out else {"hold_out": False}
        job = await start(working, poisoned(60), hyperparameters=SHORT, **judged)
        _, report = await uploaded(working, job)
    finally:
        await asyncio.to_thread(working.steps.close)
    heard = working.of(job.lease)
    (warning,) = [
        each
        for each in heard
        if isinstance(each, JobWarning) and each.reason == "UNSAFE_TRAINING_DATA"
    ]
    assert warning.message == "violence occurs in 1 of 60 training records: line 31"
    steps = [place for place, each in enumerate(heard) if isinstance(each, StepProgress)]
    assert heard.index(warning) < min(steps)
    assert any(isinstance(each, Prepared) for each in heard)
    assert report.training_screened == 60
    assert [(each.count, each.lines) for each in report.training_safety] == [(1, (31,))]
    if hold_out:
        assert report.judgement is not None
        assert [each for each in report.judgement.safety if each.where == "training"] == [
            SafetyFinding(category="violence", where="training", count=1, lines=(31,))
        ]

"""Checkpoints in the background: order, replacement, failure, and the end of a lease."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.names import JobName
from tests.unit.trainer_svc.engine.runs import JOB
from tests.unit.trainer_svc.engine.stores import TryingStore
from trainer_svc.engine.result.checkpoint import Checkpoints, MadeFor
from trainer_svc.engine.result.checkpoint_writer import CheckpointWriter
from trainer_svc.engine.step.run import RunState, Snapshot
from trainer_svc.jobs.events import CheckpointSaved, EventPayload, JobWarning

NAME = JobName.parse(JOB)


class Writing:
    """A writer whose store stands still at what a test names."""

    def __init__(self, folder: Path) -> None:
        self.store = TryingStore(folder)
        made_for = MadeFor(spec_sha256="a", base_model_digest="b", chat_template_digest="c")
        self.checkpoints = Checkpoints(self.store, NAME, made_for, epoch=1)
        self.heard: list[EventPayload] = []
        self.full = 0
        self.writer = CheckpointWriter(self.checkpoints, self.heard.append, self._disk_full)

    def _disk_full(self) -> None:
        self.full += 1

    async def keep(self, *snapshots: tuple[int, bool]) -> None:
        for step, best in snapshots:
            self.writer.keep(snapshot(step), best)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    @property
    def saved(self) -> list[int]:
        return [event.step for event in self.heard if isinstance(event, CheckpointSaved)]

    @property
    def warnings(self) -> list[JobWarning]:
        return [event for event in self.heard if isinstance(event, JobWarning)]


def snapshot(step: int) -> Snapshot:
    weights = {"a": torch.full((2,), float(step))}
    return Snapshot(step, weights, {"a.exp_avg": torch.zeros(2)}, RunState(step=step))


@pytest.fixture
async def writing(store_folder: Path) -> Writing:
    return Writing(store_folder)


async def test_a_newer_one_takes_the_place_of_one_that_waits(writing: Writing) -> None:
    writing.store.waits = "/00000001/adapter"
    await writing.keep((1, False))
    await writing.store.waiting.wait()
    await writing.keep((2, False), (3, False))
    writing.store.go_on.set()
    await writing.writer.written()
    assert writing.saved == [1, 3]


async def test_it_is_busy_while_one_waits(writing: Writing) -> None:
    writing.store.waits = "/00000001/adapter"
    assert not writing.writer.busy()
    writing.writer.keep(snapshot(1), best=False)
    assert writing.writer.busy()
    await writing.store.waiting.wait()
    assert not writing.writer.busy()
    await writing.keep((2, False))
    assert writing.writer.busy()
    writing.store.go_on.set()
    await writing.writer.written()
    assert not writing.writer.busy()
    assert writing.saved == [1, 2]


async def test_the_best_waits_until_it_is_written_or_beaten(writing: Writing) -> None:
    writing.store.waits = "/00000001/adapter"
    await writing.keep((1, False))
    await writing.store.waiting.wait()
    await writing.keep((2, True), (3, True), (4, False), (5, False))
    writing.store.go_on.set()
    await writing.writer.written()
    assert writing.saved == [1, 3, 5]
    found = await writing.checkpoints.restore()
    assert found is not None
    assert found.best is not None
    assert found.best.step == 3


async def test_saved_is_said_when_the_manifest_is_there(writing: Writing) -> None:
    writing.store.waits = "manifest"
    await writing.keep((1, False))
    await writing.store.waiting.wait()
    assert writing.heard == []
    writing.store.go_on.set()
    await writing.writer.written()
    assert writing.saved == [1]


async def test_what_cannot_be_written_is_told_and_the_next_one_is_tried(writing: Writing) -> None:
    writing.store.fails = "/00000001/"
    await writing.keep((1, False))
    await writing.writer.written()
    await writing.keep((2, False))
    await writing.writer.written()
    (warning,) = writing.warnings
    assert (warning.reason, "step 1" in warning.message) == ("CHECKPOINT_FAILED", True)
    assert (writing.saved, writing.full) == ([2], 0)


async def test_a_full_disk_is_told_to_whoever_must_stop(writing: Writing) -> None:
    writing.store.fails, writing.store.full = "/00000001/", True
    await writing.keep((1, False))
    await writing.writer.written()
    (warning,) = writing.warnings
    assert warning.message.endswith("a disk is full")
    assert writing.full == 1


async def test_a_bug_in_writing_does_not_go_unheard(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(writing.checkpoints, "save", broken)
    await writing.keep((1, False))
    await writing.writer.written()
    (warning,) = writing.warnings
    assert warning.message.endswith("KeyError")


async def test_nothing_is_written_after_a_stop(writing: Writing) -> None:
    writing.store.waits = "/00000001/manifest"
    await writing.keep((1, False), (2, False))
    await writing.keep((3, False))
    stopping = asyncio.create_task(writing.writer.stop())
    writing.store.go_on.set()
    await stopping
    puts = list(writing.store.puts)
    await writing.writer.stop()
    assert writing.store.puts == puts
    assert not any("00000003" in key for key in puts)


async def test_a_stop_does_not_wait_for_ever_for_a_store_that_hangs(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.engine.result.checkpoint_writer._PATIENCE_SECONDS", 0.01)
    writing.store.waits = "adapter"
    await writing.keep((1, False))
    await writing.store.waiting.wait()
    await writing.writer.stop()
    assert writing.heard == []


async def test_a_writer_that_had_nothing_to_write_is_done(writing: Writing) -> None:
    await writing.writer.written()
    await writing.writer.stop()
    assert writing.heard == []
